# Run on a machine of its own: a mesh of two hosts, a service at host-b, and what a root file system for containers needs.
# The id of an ENI is in the file $D/NAME.
set -eu
D=/srv/workloads
export CULVERT_DEV_PREFIX=cvw
as() { local who=$1; shift; ( eval "$(culvert dev env "$who")"; exec culvert "$@" ); }
# on runs a command as shop's administrator on host-a.
on() { ( eval "$(culvert dev env shop --host host-a)"; exec "$@" ); }

mesh() {
	mkdir -p "$D" /srv/www
	culvert dev up --hosts 2
	eval "$(culvert dev env)"
	for account in shop pay; do
		culvert account create "$account"
		as "$account" vpc create "$account" --cidr 10.0.0.0/16
		as "$account" subnet create "$account" --vpc "$account" --cidr 10.0.1.0/24 --zone z1
	done
	culvert account domain add pay pay.internal
	as pay eni create ledger --subnet pay --node host-b --address 10.0.1.77
	(eval "$(culvert dev env pay)"; culvert dev workload add ledger --host host-b --eni ledger)
	echo "balance 42" >/srv/www/index.html
	for port in 80 81; do
		systemd-run --unit="ledger-$port" -E CULVERT_DEV_PREFIX -- culvert dev exec ledger -- \
			busybox httpd -f -p "$port" -h /srv/www
	done
	as pay target-group create ledger --vpc pay --protocol tcp --port 80
	as pay target-group register ledger ledger
	as pay load-balancer create ledger --subnet pay
	as pay listener create --load-balancer ledger --protocol tcp --port 80 --target-group ledger
	as pay sg authorize default --vpc pay --ingress --protocol tcp --port 80 --cidr 10.0.1.0/24
	as pay service create ledger --load-balancer ledger --private-dns-name ledger.pay.internal
	as pay service allow ledger shop
	as shop endpoint create ledger --vpc shop --service pay/ledger --private-dns
	for name in named unit podman ctr run; do
		as shop eni create "$name" --subnet shop --node host-a -o json | jq -er .id >"$D/$name"
	done
}

# root makes a root file system of this machine's own programs and libraries, without /etc/resolv.conf.
root() {
	local to=$1 file
	mkdir -p "$to"/{etc,proc,sys,dev,tmp,run}
	for file in /bin/sh /bin/sleep /bin/cat /usr/bin/getent /usr/bin/curl; do
		for file in "$file" $(ldd "$file" | grep -o '/[^ ]*'); do
			mkdir -p "$to${file%/*}"
			cp -L "$file" "$to$file"
		done
	done
	echo "hosts: dns" >"$to/etc/nsswitch.conf"
}
