/* How the programs of one MPI job find each other. C, since consumers of weights share it
 * (archon_consumer.h). */
#pragma once

#include <mpi.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ARCHON_ROLE_BYTES 64

/* What each process of the job tells all others. Both texts are padded with zeros. */
typedef struct archon_job_member {
  char role[ARCHON_ROLE_BYTES]; /* of its own program */
  char peer[ARCHON_ROLE_BYTES]; /* of the program it exchanges weights with; "" = none */
} archon_job_member;

/* Whether a text can be a role: neither empty nor too long. */
int archon_is_role(const char* role);

/* Fills in `members`, one for each rank of MPI_COMM_WORLD, and splits it: `own` receives the
 * communicator of the processes of this process's role. Launchers number their programs each in
 * its way or not at all, so that programs tell what they are. Collective over MPI_COMM_WORLD: every
 * program of the job calls it once. An MPI error code. */
int archon_join_job(const char* role, const char* peer, archon_job_member* members, MPI_Comm* own);

/* The rank in MPI_COMM_WORLD of the first process with this role; -1 if there is none. */
int archon_first_of_role(const archon_job_member* members, int count, const char* role);

#ifdef __cplusplus
}
#endif
