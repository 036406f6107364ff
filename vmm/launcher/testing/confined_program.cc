// A program for launcher_test: tells what it may do with files, and waits to be killed.

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char** argv) {
  if (argc > 1 && strcmp(argv[1], "violate") == 0) socket(AF_INET, SOCK_STREAM, 0);
  const char* const folder = open("/", O_RDONLY | O_DIRECTORY) >= 0 ? "opened" : strerror(errno);
  char line[100];
  const int size = snprintf(line, sizeof(line), "/: %s\n", folder);
  if (write(STDOUT_FILENO, line, static_cast<size_t>(size)) != size) return 1;
  while (true) poll(nullptr, 0, -1);
}
