/* consumer_program ROLE FOLDER BEHAVIOUR: a program that receives weights, for the tests of weight
 * sync. Leaves FOLDER/VERSION-RANK/: a file for each tensor, and `list` with names, types, shapes.
 * Prints a line for each version, for errors and for the end. */
#define _POSIX_C_SOURCE 200809L
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "archon/archon_consumer.h"

/* What it does once it has received its first version. */
static const char* behaviour;

static int is(const char* name) { return strcmp(behaviour, name) == 0; }

typedef struct Version {
  char folder[512];
  FILE* list;
  int tensors;
} Version;

static int on_tensor(const archon_tensor* tensor, void* user) {
  Version* version = user;
  if (is("refuse") && version->tensors == 3) return 1;
  ++version->tensors;
  fprintf(version->list, "%s %s", tensor->name, tensor->dtype);
  for (int dim = 0; dim < tensor->dims; ++dim)
    fprintf(version->list, " %lld", (long long)tensor->shape[dim]);
  fputc('\n', version->list);
  char path[1024];
  snprintf(path, sizeof path, "%s/%s", version->folder, tensor->name);
  FILE* file = fopen(path, "wb");
  const int aligned = (size_t)tensor->data % 64 == 0;
  const int failed = !file || fwrite(tensor->data, 1, tensor->bytes, file) != tensor->bytes;
  return (file && fclose(file)) || failed || !aligned;
}

static int receive(archon_consumer* consumer, const char* parent, int rank) {
  Version version = {.tensors = 0};
  char folder[1024];
  int64_t number = 0;
  snprintf(version.folder, sizeof version.folder, "%s/arriving-%d", parent, rank);
  mkdir(version.folder, 0700);
  snprintf(folder, sizeof folder, "%s/list", version.folder);
  version.list = fopen(folder, "w");
  const int result = archon_consumer_receive(consumer, on_tensor, &version, &number);
  fclose(version.list);
  snprintf(folder, sizeof folder, "%s/%lld-%d", parent, (long long)number, rank);
  if (result == ARCHON_CONSUMER_VERSION && rename(version.folder, folder) == 0)
    printf("consumer %d: version %lld with %d tensors\n", rank, (long long)number, version.tensors);
  if (result == ARCHON_CONSUMER_FAILED)
    printf("consumer %d: error: %s\n", rank, archon_consumer_error(consumer));
  fflush(stdout);
  return result;
}

static void receive_all(archon_consumer* consumer, const char* folder, int rank) {
  for (;;) {
    const int result = receive(consumer, folder, rank);
    if (result == ARCHON_CONSUMER_ENDED) printf("consumer %d: ended\n", rank);
    if (result == ARCHON_CONSUMER_ENDED || is("leave")) return;
    if (is("die")) raise(SIGKILL);
    if (is("stall")) pause();
    if (is("slow")) nanosleep(&(struct timespec){0, 700 * 1000 * 1000}, NULL);
  }
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  behaviour = argv[3];
  MPI_Init(NULL, NULL);
  if (is("silent")) pause();
  archon_consumer* consumer = NULL;
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (archon_consumer_connect(argv[1], &consumer) == 0)
    receive_all(consumer, argv[2], rank);
  else
    printf("consumer %d: error: %s\n", rank, archon_consumer_error(consumer));
  fflush(stdout);
  archon_consumer_disconnect(consumer);
  MPI_Finalize();
  return 0;
}
