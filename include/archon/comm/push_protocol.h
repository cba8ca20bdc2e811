/* What goes between Archon's world rank 0 and a consumer of weights, over an MPI inter-communicator
 * with that one rank on Archon's side and all processes of the consumer on the other.
 *
 *   consumer rank 0 -> Archon   archon_push_request, tag ARCHON_PUSH_TAG_REQUEST
 *   Archon -> each consumer     archon_push_begin, tag ARCHON_PUSH_TAG_BEGIN: the answer to
 *                               ARCHON_PUSH_NEXT; there is none to ARCHON_PUSH_LEAVE
 *   Archon -> all, MPI_Bcast    archon_push_tensor for each tensor, in order
 *   Archon -> all, MPI_Bcast    the tensors' bytes, bucket after bucket
 *
 * Integers and tensors travel as bytes: both programs run on machines of one byte order. */
#pragma once

#include <stdint.h>

/* Goes up with every change of this file. */
#define ARCHON_PUSH_PROTOCOL 1

enum {
  ARCHON_PUSH_TAG_CONNECT = 4711,
  ARCHON_PUSH_TAG_REQUEST,
  ARCHON_PUSH_TAG_BEGIN,
};

typedef enum archon_push_request {
  ARCHON_PUSH_LEAVE = 0,
  ARCHON_PUSH_NEXT = 1,
} archon_push_request;

typedef struct archon_push_begin {
  int64_t protocol;
  int64_t ended; /* 1: training ended, nothing follows */
  int64_t version;
  int64_t tensors;
  int64_t bucket_bytes; /* the most that goes into one message; below 2^31 */
} archon_push_begin;

#define ARCHON_PUSH_NAME_BYTES 256
#define ARCHON_PUSH_DIMS 8

typedef struct archon_push_tensor {
  char name[ARCHON_PUSH_NAME_BYTES];
  char dtype[16];
  int64_t dims;
  int64_t shape[ARCHON_PUSH_DIMS];
  int64_t bytes;
} archon_push_tensor;

/* Tensors of a bucket lie one behind the other, each at a multiple of this. */
#define ARCHON_PUSH_ALIGNMENT 64

static inline int64_t archon_push_aligned(int64_t bytes) {
  return (bytes + ARCHON_PUSH_ALIGNMENT - 1) / ARCHON_PUSH_ALIGNMENT * ARCHON_PUSH_ALIGNMENT;
}

/* A bucket: tensors `first` to below `end`, in so many bytes. It holds as many tensors as fit into
 * bucket_bytes. A larger tensor has a bucket of its own, which travels in several messages. */
typedef struct archon_push_bucket {
  int64_t first, end, bytes;
} archon_push_bucket;

static inline archon_push_bucket archon_push_bucket_from(const archon_push_tensor* tensors,
                                                         int64_t count, int64_t first,
                                                         int64_t bucket_bytes) {
  archon_push_bucket bucket = {first, first + 1, tensors[first].bytes};
  while (bucket.end < count) {
    const int64_t bytes = archon_push_aligned(bucket.bytes) + tensors[bucket.end].bytes;
    if (bytes > bucket_bytes) break;
    bucket.bytes = bytes;
    ++bucket.end;
  }
  return bucket;
}
