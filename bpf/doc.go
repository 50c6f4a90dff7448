// Package bpf holds the datapath's programs: the C sources, the object compiled from them and the Go types that mirror
// bpf/lib/abi.h, generated from the object's BTF. What the programs do with a packet is decision 0003.
//
// The object is committed, so a build needs no clang; `go generate` needs the clang of clang-version.txt and Debian's
// libbpf-dev and llvm-19. Only agent/datapath loads it.
package bpf

//go:generate sh -c "clang-19 --version | sed -n 's/.*clang version \\([0-9.]*\\).*/\\1/p' > clang-version.txt"
//go:generate -command objects go tool bpf2go -go-package bpf -target bpfel,bpfeb -cc clang-19
//go:generate objects -cflags "-mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror" -output-stem culvert ABI culvert.c
//go:generate objects -cflags "-mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror" -output-stem queries Queries limit_queries.c
//go:generate go run ./gen
