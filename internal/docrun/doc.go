// Package docrun runs the commands that the project's documents show, so that a document that is wrong fails a test.
// Only tests import it.
//
// A command stands in a block fenced as sh, and the fence says where it runs:
//
//	```sh machine=node-a         on that machine
//	```sh no-run=REASON          nowhere, because of REASON (the rest of the line)
//
// Machines (see addresses) are namespaces with one shell each, which lives as long as the document: what a block exports
// or starts in the background is there in the next. A machine has this machine's programs, an empty /root, /run, /srv,
// /tmp and /var/lib/culvert, a bpffs of its own and no way out; what it writes is gone with it.
//
// A block fenced as text right behind an sh block is what the reader will see: its lines must come in that order in the
// block's output, others may stand between, "…" stands for anything within a line, and any white space for any other.
// Until they come, the block is run again for a while.
//
// Some variables are set by no command, because a person copies their values from what an earlier command printed.
// TOKEN_FOR_NAME is the join token, ENI_NAME the id of the network interface, that was made with that name (see copied).
package docrun
