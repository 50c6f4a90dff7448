// Package delivery brings flow records to where flow logs want them: it joins them over aggregation intervals, writes them as files of
// windows of time, keeps these until they have arrived, and says how that goes. Decision 0027 says why it is made like this.
package delivery
