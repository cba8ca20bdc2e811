/* Receives the weights that `archon train --push-weights ROLE` sends while it trains. C; needs MPI
 * alone. docs/weight-sync.md has a complete program.
 *
 *   mpiexec -n 4 archon train ... --push-weights consumer : -n 1 ./consumer
 *
 * All programs of a job share MPI_COMM_WORLD; each tells its role. A consumer may have any number
 * of processes; every one of them makes the same calls and receives every tensor. One thread at a
 * time may use a consumer. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ARCHON_CONSUMER_API __attribute__((visibility("default")))

typedef struct archon_consumer archon_consumer;

/* One whole tensor under its HuggingFace name, row-major as in a HuggingFace file. All pointers are
 * valid until the callback returns; `data` is aligned to 64 bytes. */
typedef struct archon_tensor {
  const char* name;     /* "model.layers.0.mlp.up_proj.weight" */
  const char* dtype;    /* "F32", "BF16" or "F16", as in safetensors */
  int dims;             /* length of `shape` */
  const int64_t* shape;
  const void* data;
  size_t bytes;
} archon_tensor;

/* Takes one tensor. Any result but 0 refuses it, and archon_consumer_receive fails. */
typedef int (*archon_tensor_callback)(const archon_tensor* tensor, void* user);

enum {
  ARCHON_CONSUMER_VERSION = 0, /* a version came */
  ARCHON_CONSUMER_ENDED = 1,   /* training ended; no version will come */
  ARCHON_CONSUMER_FAILED = -1, /* archon_consumer_error tells why */
};

/* Tells this process's role and waits until all of the job have done so. Between MPI_Init and any
 * other use of MPI_COMM_WORLD by this program; collective over MPI_COMM_WORLD, once per process.
 * `role` has at most 63 bytes and is the ROLE of --push-weights. 0, or ARCHON_CONSUMER_FAILED, in
 * particular where Archon does not push to this role. Also then `consumer` receives an object
 * (NULL only when memory is short), to ask for the error and to disconnect. */
ARCHON_CONSUMER_API int archon_consumer_connect(const char* role, archon_consumer** consumer);

/* Waits for the next version and calls `on_tensor` for each of its tensors, in the order of the
 * HuggingFace file. `version` receives the number of training steps these weights have seen.
 * Memory: the larger of --push-bucket-size and the largest tensor. Collective over the consumer's
 * processes. */
ARCHON_CONSUMER_API int archon_consumer_receive(archon_consumer* consumer,
                                                archon_tensor_callback on_tensor, void* user,
                                                int64_t* version);

/* What went wrong last; valid until the next call. */
ARCHON_CONSUMER_API const char* archon_consumer_error(const archon_consumer* consumer);

/* Says goodbye, also before training ended: Archon then trains on and pushes no more. Before
 * MPI_Finalize; collective over the consumer's processes. NULL is allowed.
 *
 * After a failure in the middle of a version (of MPI, or short memory; not a tensor that on_tensor
 * refused) Archon cannot be told, and waits: end the program with MPI_Abort on MPI_COMM_WORLD, which
 * ends the job, rather than with MPI_Finalize, which waits for Archon. */
ARCHON_CONSUMER_API void archon_consumer_disconnect(archon_consumer* consumer);

#ifdef __cplusplus
}
#endif
