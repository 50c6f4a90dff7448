// Package flow turns what the datapath counts into flow records: who spoke to whom, over which connection, let in by
// whom, how much, or refused and why.
//
// A [Source] hands over the flow table, the refusals since the last time and events. The [Labeler] puts ids to numbers,
// from the view and the plan of the generation that a flow was judged under. The [Aggregator] compares the counters with
// what was recorded already and makes the records of one interval; both are pure. The [Log] keeps the records in local
// segments and gives each a sequence number, the [Shipper] sends them on, at least once, and a [Collector] ties all
// together.
//
// Counts are never lost, detail may be: a flow's counters live in the kernel until they are read, what was recorded of
// each flow is found again in the log after a restart, and wherever detail goes (too many refusals at once, a disk that
// is full) it is merged by interface and reason and the number of what was merged is declared in the record's Lost.
package flow
