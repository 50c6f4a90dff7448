package tunnel

import (
	"reflect"
	"strings"
	"testing"
)

func TestHandoverText(t *testing.T) {
	want := handover{tun: []int{3, 4, 5}, udp4: 7, udp6: -1, listener: 9, lock: 10, state: 11, prefixes: 12, numbers: -1}
	got, err := parseHandover(want.String())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s comes back as %+v, %v", want.String(), got, err)
	}
	for _, bad := range []string{
		"", "tun=3", "tun=3 listener=4 lock=5 state=-1", "tun=3 listener=4 lock=5 state=6 more=7", "tun", "tun=x",
	} {
		if _, err := parseHandover(bad); err == nil || !strings.Contains(err.Error(), handoverEnv) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}

func TestSettings(t *testing.T) {
	answer := "private_key=aa\nlisten_port=1\npublic_key=bb\nendpoint=[::1]:2\nlast_handshake_time_sec=1\n" +
		"last_handshake_time_nsec=2\ntx_bytes=3\nrx_bytes=4\nallowed_ip=fd00::/8\n"
	want := "private_key=aa\nlisten_port=1\npublic_key=bb\nendpoint=[::1]:2\nallowed_ip=fd00::/8\n"
	if got := settings(answer); got != want {
		t.Errorf("settings are %q: want %q", got, want)
	}
}
