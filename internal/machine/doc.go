// Package machine boots systemd for tests of what a real host does: units, packages, the network managers of
// distributions. Only tests import it.
//
// A machine is systemd as process 1 of new process, mount, network, host name, IPC and cgroup namespaces, over a
// writable copy of this host's root that is gone when the test ends. Programs and packages are the host's; of its units
// none is enabled, and its state does not show. The network has a loopback and no way out. /proc/sys outside net, and
// /sys, are read-only; so are the clock and the kernel's modules out of reach of units.
//
//	m := machine.Boot(t)
//	m.WriteFile("/etc/systemd/system/hello.service", unit, 0o644)
//	m.Run("systemctl", "start", "hello.service")
//	t.Log(m.Run("journalctl", "-u", "hello.service"))
//
// Helpers stop the test (t.Fatal) when something fails, so call them from the test's own goroutine. Needs root, systemd
// and the unified cgroup hierarchy mounted somewhere.
package machine
