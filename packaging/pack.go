package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb" // registers itself
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

var formats = []string{"deb", "rpm"}

// release counts changes of the packaging alone; a new version starts at 1.
const release = "1"

const description = `Private endpoints for services on machines you own
Culvert lets a workload in one network reach a service in another by a private
address of its own network: no peering, no shared address plan, no proxy,
nothing in clear between machines, and every packet accounted for.
.
The package holds the one binary, and units for the server, the agent and the
tunnel, none of which is enabled.`

// pack writes one package and returns its path.
func (b build) pack(format, arch, binary string, texts map[string][]text) (string, error) {
	packager, err := nfpm.Get(format)
	if err != nil {
		return "", err
	}
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: "culvert", Arch: arch, Platform: "linux", Version: packageVersion(b.version), VersionSchema: "none",
		Release: release, Section: "net", Priority: "optional", MTime: b.made,
		Maintainer: "The Culvert authors <culvert@culvert-net.invalid>", Vendor: "Culvert", License: "Apache-2.0",
		Description: description, Homepage: "https://github.com/culvert-net/culvert",
		Overridables: nfpm.Overridables{
			Contents: b.contents(format, binary, texts[format]),
			Umask:    0o022,
			Depends:  []string{"systemd"},
			Scripts: nfpm.Scripts{
				PostInstall: "scripts/postinstall", PreRemove: "scripts/preremove", PostRemove: "scripts/postremove",
			},
			Deb: nfpm.Deb{Compression: "zstd"},
			RPM: nfpm.RPM{Group: "System Environment/Daemons", Summary: "Private endpoints for services on machines you own",
				BuildHost: "culvert", Compression: "zstd"},
		},
	})
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return "", err
	}
	path := filepath.Join(b.out, packager.ConventionalFileName(info))
	out, err := os.Create(path)
	if err != nil {
		return "", err
	}
	return path, errors.Join(packager.Package(info, out), out.Close())
}

// contents are a package's files. Those of /etc/culvert are the administrator's: an upgrade leaves them as they are.
func (b build) contents(format, binary string, texts []text) files.Contents {
	at := func(mode os.FileMode) *files.ContentFileInfo {
		return &files.ContentFileInfo{Owner: "root", Group: "root", Mode: mode, MTime: b.made}
	}
	plain := func(source, target string) *files.Content {
		return &files.Content{Source: source, Destination: target, FileInfo: at(0o644)}
	}
	all := files.Contents{
		{Source: binary, Destination: "/usr/bin/culvert", FileInfo: at(0o755)},
		plain("files/culvert-server.service", "/usr/lib/systemd/system/culvert-server.service"),
		plain("files/culvert-tunnel.service", "/usr/lib/systemd/system/culvert-tunnel.service"),
		plain("files/culvert-agent.service", "/usr/lib/systemd/system/culvert-agent.service"),
		plain("files/culvert.sysusers", "/usr/lib/sysusers.d/culvert.conf"),
		plain("files/culvert.network", "/usr/lib/systemd/network/05-culvert.network"),
		plain("files/culvert.networkmanager.conf", "/usr/lib/NetworkManager/conf.d/10-culvert.conf"),
		plain("../README.md", "/usr/share/doc/culvert/README.md"),
		plain("../CHANGELOG.md", "/usr/share/doc/culvert/CHANGELOG.md"),
		plain("../docs/OPERATIONS.md", "/usr/share/doc/culvert/OPERATIONS.md"),
		plain("../LICENSE", licensePath[format]),
		{Destination: "/etc/culvert", Type: files.TypeDir, FileInfo: at(0o755)},
	}
	for _, name := range []string{"server.env", "agent.env"} {
		all = append(all, &files.Content{Source: "files/" + name, Destination: "/etc/culvert/" + name,
			Type: files.TypeConfigNoReplace, FileInfo: at(0o644)})
	}
	for _, t := range texts {
		all = append(all, plain(t.file, t.path))
	}
	return all
}

var licensePath = map[string]string{
	"deb": "/usr/share/doc/culvert/copyright",
	"rpm": "/usr/share/licenses/culvert/LICENSE",
}
