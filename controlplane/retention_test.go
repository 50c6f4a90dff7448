package controlplane

import (
	"encoding/json"
	"time"

	"github.com/culvert-net/culvert/api"
	"github.com/culvert-net/culvert/controlplane/store"
)

// keep sets the terms of records and segments as if they had always been so.
func (l *lab) keep(days int) {
	l.t.Helper()
	data := must(json.Marshal(termsOf{Terms: []term{{For: time.Duration(days) * day}}}))(l.t)
	must(l.s.store.Txn(l.ctx(), func(tx *store.Tx) error {
		for _, class := range []api.RetentionClass{api.RetainFlowRecords, api.RetainSegments} {
			tx.SetSide(store.PrefixRetention+string(class), data)
		}
		return nil
	}))(l.t)
	if err := l.s.loadRetention(l.ctx()); err != nil {
		l.t.Fatal(err)
	}
}
