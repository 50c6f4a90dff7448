package api

import "strconv"

// WatchEventType says what a WatchEvent tells.
type WatchEventType string

// What a watch tells.
const (
	WatchAdded    WatchEventType = "Added"    // the list has a new item
	WatchModified WatchEventType = "Modified" // an item is not as it was
	WatchDeleted  WatchEventType = "Deleted"  // the list has an item no more; Item is what it was
	// WatchSynced ends the items that were there when the watch began, WatchBookmark each group of changes after that. Both say that
	// applying the events so far gives the list at Revision, and that a watch may be resumed from it.
	WatchSynced   WatchEventType = "Synced"
	WatchBookmark WatchEventType = "Bookmark"
	WatchError    WatchEventType = "Error" // the watch has ended, and Error says why
)

// WatchEvent is a line of the answer to a GET on a collection with watch=true.
type WatchEvent[T any] struct {
	Type WatchEventType `json:"type" enum:"Added,Modified,Deleted,Synced,Bookmark,Error"`
	// Revision of the picture that the event tells of. A group that is not ended by Synced or Bookmark may be incomplete.
	Revision int64  `json:"revision"`
	Item     *T     `json:"item,omitempty"`
	Error    *Error `json:"error,omitempty"`
}

// ItemID is how the items of a list are told apart in a watch: by id, audit events by sequence number.
func ItemID(item any) string {
	switch v := item.(type) {
	case interface{ GetMeta() *Meta }:
		return v.GetMeta().ID
	case *CatalogueEntry:
		return v.ID
	case *DescribedTarget:
		return v.ID
	case *AuditEvent:
		return strconv.FormatUint(v.Seq, 10)
	}
	return ""
}
