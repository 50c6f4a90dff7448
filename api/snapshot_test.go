package api

import "testing"

// Every kind is known to every switch over kinds.
func TestResourcesKnowEveryKind(t *testing.T) {
	for _, k := range Kinds {
		res := NewResource(k)
		if res == nil || res.Kind() != k {
			t.Fatalf("NewResource(%s) = %v", k, res)
		}
		res.GetMeta().ID = "x"
		base := NewResources()
		base.Put(res)
		count := func(r *Resources) (n int) {
			r.Each(k, func(Resource) bool { n++; return true })
			return n
		}
		if base.Get(k, "x") != res || base.Get(k, "y") != nil {
			t.Errorf("%s: got %v and %v", k, base.Get(k, "x"), base.Get(k, "y"))
		}
		cp := *base
		cp.CloneKind(k)
		cp.Remove(k, "x")
		if count(base) != 1 || count(&cp) != 0 {
			t.Errorf("%s: %d in the base, %d in the copy", k, count(base), count(&cp))
		}
	}
	if NewResource("x") != nil {
		t.Error("an unknown kind was made")
	}
}
