package dev

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// FuzzParseRecord: a record that is read holds only names that can be joined to paths and given to other programs, and is
// written and read the same.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"hosts":[{"name":"host-a","netns":"culvert-host-a","address":"10.99.0.10"}],"workloads":[{"name":"cart","host":"host-a","eniId":"eni-1"}]}`))
	f.Add([]byte(`{"hosts":[{"name":"../../etc","netns":"-x","address":"10.99.0.10"}],"workloads":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRecord(data)
		if err != nil {
			return
		}
		for _, h := range r.Hosts {
			if strings.ContainsAny(h.Name+h.Netns, "/\x00 \n") || strings.HasPrefix(h.Name, ".") || strings.HasPrefix(h.Netns, "-") {
				t.Errorf("%+v", h)
			}
		}
		for _, w := range r.Workloads {
			if strings.ContainsAny(w.Name+w.Host+w.ENI+w.Interface, "/\x00 \n") || strings.HasPrefix(w.Name, "-") {
				t.Errorf("%+v", w)
			}
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if two, err := parseRecord(again); err != nil || !reflect.DeepEqual(r, two) {
			t.Errorf("%s, read again: %+v (%v)", again, two, err)
		}
	})
}
