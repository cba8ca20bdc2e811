#define _POSIX_C_SOURCE 200809L
#include "archon/archon_consumer.h"

#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "archon/comm/job.h"
#include "archon/comm/push_protocol.h"

static const char kArchonRole[] = "archon";

typedef enum State {
  kBroken, /* never connected, or an exchange broke off; `error` says why */
  kConnected,
  kEnded /* Archon said so */
} State;

struct archon_consumer {
  State state;
  MPI_Comm own;    /* this program's processes */
  MPI_Comm archon; /* inter-communicator */
  char* bucket;
  int64_t capacity;
  char error[1024];
};

static int fail(archon_consumer* consumer, const char* format, ...)
    __attribute__((format(printf, 2, 3)));
static int fail(archon_consumer* consumer, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(consumer->error, sizeof consumer->error, format, arguments);
  va_end(arguments);
  return ARCHON_CONSUMER_FAILED;
}

/* 0, or a failure with the text of MPI. */
static int checked(archon_consumer* consumer, int code, const char* action) {
  if (code == MPI_SUCCESS) return 0;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return fail(consumer, "cannot %s: %s", action, text);
}

/* Joins the job and finds Archon in it; `leader` receives its first rank. */
static int find_archon(archon_consumer* consumer, const char* role, int* leader) {
  int size = 0;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  archon_job_member* members = calloc((size_t)size, sizeof *members);
  if (!members) return fail(consumer, "no memory to list the %d processes of the job", size);
  int result = checked(consumer, archon_join_job(role, kArchonRole, members, &consumer->own),
                       "exchange roles with the other programs of the job");
  *leader = result ? -1 : archon_first_of_role(members, size, kArchonRole);
  if (!result && *leader < 0)
    result = fail(consumer,
                  "archon is not among the %d processes of this job; start both with one "
                  "launcher: mpiexec -n 4 archon train ... : -n 1 consumer",
                  size);
  else if (!result && members[*leader].peer[0] == '\0')
    result = fail(consumer,
                  "archon was started without --push-weights, so it sends nothing; give "
                  "it --push-weights %s",
                  role);
  else if (!result && strcmp(members[*leader].peer, role) != 0)
    result = fail(consumer,
                  "archon pushes weights to the role %s, and this is %s; one of the two "
                  "must be changed",
                  members[*leader].peer, role);
  free(members);
  return result;
}

int archon_consumer_connect(const char* role, archon_consumer** out) {
  archon_consumer* consumer = calloc(1, sizeof *consumer);
  *out = consumer;
  if (!consumer) return ARCHON_CONSUMER_FAILED;
  consumer->own = consumer->archon = MPI_COMM_NULL;
  if (!archon_is_role(role) || strcmp(role, kArchonRole) == 0)
    return fail(consumer,
                "\"%s\" is no role for a consumer: it must have 1 to %d bytes and not be "
                "%s",
                role, ARCHON_ROLE_BYTES - 1, kArchonRole);
  int leader = 0;
  if (find_archon(consumer, role, &leader)) return ARCHON_CONSUMER_FAILED;
  const int code = MPI_Intercomm_create(consumer->own, 0, MPI_COMM_WORLD, leader,
                                        ARCHON_PUSH_TAG_CONNECT, &consumer->archon);
  if (checked(consumer, code, "connect to archon")) return ARCHON_CONSUMER_FAILED;
  MPI_Comm_set_errhandler(consumer->archon, MPI_ERRORS_RETURN);
  consumer->state = kConnected;
  return 0;
}

static int send_request(archon_consumer* consumer, archon_push_request request) {
  int rank = 0;
  MPI_Comm_rank(consumer->own, &rank);
  const int64_t word = request;
  if (rank != 0) return 0;
  return checked(
      consumer,
      MPI_Send(&word, sizeof word, MPI_BYTE, 0, ARCHON_PUSH_TAG_REQUEST, consumer->archon),
      "ask archon for the next version");
}

/* Waits asleep: training may need the cores that a waiting MPI call would keep busy. */
static int receive_begin(archon_consumer* consumer, archon_push_begin* begin) {
  const struct timespec pause = {0, 500 * 1000};
  int here = 0;
  while (!here) {
    const int code =
        MPI_Iprobe(0, ARCHON_PUSH_TAG_BEGIN, consumer->archon, &here, MPI_STATUS_IGNORE);
    if (checked(consumer, code, "wait for the next version")) return ARCHON_CONSUMER_FAILED;
    if (!here) nanosleep(&pause, NULL);
  }
  const int code = MPI_Recv(begin, sizeof *begin, MPI_BYTE, 0, ARCHON_PUSH_TAG_BEGIN,
                            consumer->archon, MPI_STATUS_IGNORE);
  if (checked(consumer, code, "receive the next version")) return ARCHON_CONSUMER_FAILED;
  if (begin->protocol != ARCHON_PUSH_PROTOCOL)
    return fail(consumer,
                "archon speaks version %d of the protocol, this library version %d; "
                "install both from one release",
                (int)begin->protocol, ARCHON_PUSH_PROTOCOL);
  return 0;
}

static int receive_bytes(archon_consumer* consumer, void* to, int64_t bytes, int64_t most) {
  for (int64_t done = 0; done < bytes; done += most) {
    const int count = (int)(bytes - done < most ? bytes - done : most);
    const int code = MPI_Bcast((char*)to + done, count, MPI_BYTE, 0, consumer->archon);
    if (checked(consumer, code, "receive weights")) return ARCHON_CONSUMER_FAILED;
  }
  return 0;
}

static int make_room(archon_consumer* consumer, int64_t bytes) {
  if (bytes <= consumer->capacity) return 0;
  free(consumer->bucket);
  consumer->capacity = archon_push_aligned(bytes);
  consumer->bucket = aligned_alloc(ARCHON_PUSH_ALIGNMENT, (size_t)consumer->capacity);
  if (consumer->bucket) return 0;
  consumer->capacity = 0;
  return fail(consumer, "no memory for %lld bytes of weights", (long long)bytes);
}

/* Hands out a bucket's tensors; the first that the callback refuses makes `refused` its index. */
static void deliver(const archon_consumer* consumer, const archon_push_tensor* tensors,
                    archon_push_bucket bucket, archon_tensor_callback on_tensor, void* user,
                    int64_t* refused) {
  int64_t at = 0;
  for (int64_t i = bucket.first; i < bucket.end && *refused < 0; ++i) {
    const archon_tensor tensor = {.name = tensors[i].name,
                                  .dtype = tensors[i].dtype,
                                  .dims = (int)tensors[i].dims,
                                  .shape = tensors[i].shape,
                                  .data = consumer->bucket + at,
                                  .bytes = (size_t)tensors[i].bytes};
    if (on_tensor(&tensor, user) != 0) *refused = i;
    at += archon_push_aligned(tensors[i].bytes);
  }
}

/* All buckets of a version, also when a tensor was refused: the next version is to be whole. */
static int receive_buckets(archon_consumer* consumer, const archon_push_begin* begin,
                           const archon_push_tensor* tensors, archon_tensor_callback on_tensor,
                           void* user) {
  int64_t refused = -1;
  archon_push_bucket bucket = {0, 0, 0};
  while (bucket.end < begin->tensors) {
    bucket = archon_push_bucket_from(tensors, begin->tensors, bucket.end, begin->bucket_bytes);
    if (make_room(consumer, bucket.bytes) ||
        receive_bytes(consumer, consumer->bucket, bucket.bytes, begin->bucket_bytes))
      return ARCHON_CONSUMER_FAILED;
    deliver(consumer, tensors, bucket, on_tensor, user, &refused);
  }
  consumer->state = kConnected;
  if (refused < 0) return ARCHON_CONSUMER_VERSION;
  return fail(consumer, "the program refused %s of version %lld", tensors[refused].name,
              (long long)begin->version);
}

int archon_consumer_receive(archon_consumer* consumer, archon_tensor_callback on_tensor, void* user,
                            int64_t* version) {
  if (consumer->state == kBroken) return ARCHON_CONSUMER_FAILED;
  if (consumer->state == kEnded) return ARCHON_CONSUMER_ENDED;
  consumer->state = kBroken; /* until the exchange is complete */
  archon_push_begin begin;
  if (send_request(consumer, ARCHON_PUSH_NEXT) || receive_begin(consumer, &begin))
    return ARCHON_CONSUMER_FAILED;
  if (begin.ended) {
    consumer->state = kEnded;
    return ARCHON_CONSUMER_ENDED;
  }
  *version = begin.version;
  const int64_t bytes = begin.tensors * (int64_t)sizeof(archon_push_tensor);
  archon_push_tensor* tensors = malloc((size_t)bytes);
  if (!tensors) return fail(consumer, "no memory to list %lld tensors", (long long)begin.tensors);
  int result = receive_bytes(consumer, tensors, bytes, begin.bucket_bytes);
  if (!result) result = receive_buckets(consumer, &begin, tensors, on_tensor, user);
  free(tensors);
  return result;
}

const char* archon_consumer_error(const archon_consumer* consumer) {
  return consumer ? consumer->error : "no memory";
}

void archon_consumer_disconnect(archon_consumer* consumer) {
  if (!consumer) return;
  if (consumer->state == kConnected) send_request(consumer, ARCHON_PUSH_LEAVE);
  if (consumer->archon != MPI_COMM_NULL) MPI_Comm_free(&consumer->archon);
  if (consumer->own != MPI_COMM_NULL) MPI_Comm_free(&consumer->own);
  free(consumer->bucket);
  free(consumer);
}
