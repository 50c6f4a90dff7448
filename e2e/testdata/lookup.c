#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* lookup NAME prints the addresses of a name as getaddrinfo of this program's C library gives them, or why there are none. */
int main(int argc, char **argv)
{
	struct addrinfo hints, *list, *a;
	char text[INET6_ADDRSTRLEN];
	int err;

	memset(&hints, 0, sizeof hints);
	hints.ai_socktype = SOCK_STREAM;
	err = getaddrinfo(argv[1], NULL, &hints, &list);
	if (err) {
		puts(gai_strerror(err));
		return 1;
	}
	for (a = list; a; a = a->ai_next) {
		void *from = a->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
						     : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr;
		puts(inet_ntop(a->ai_family, from, text, sizeof text));
	}
	return 0;
}
