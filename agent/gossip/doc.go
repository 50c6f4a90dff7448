// Package gossip tells which other nodes seem to be alive, by SWIM over UDP and TCP, encrypted with the mesh's gossip keys.
// It alone imports memberlist.
//
// What it says is a hint: it is shown in a node's status and makes the agent's loop look again, and grants, moves or
// removes nothing. Whom to gossip with says the view, and where that member is, too: a name that is not in the list is
// neither answered nor passed on as alive, a connection from an address that is not in it is closed, and addresses that
// travel in messages mean nothing, so every node sends the same dummy one.
//
// A member is alive, gone (it stopped answering, or said that it leaves) or unknown (never heard). The library does not
// tell who is merely suspected.
package gossip
