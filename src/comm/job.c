#include "archon/comm/job.h"

#include <string.h>

int archon_is_role(const char* role) { return role[0] != '\0' && strlen(role) < ARCHON_ROLE_BYTES; }

int archon_first_of_role(const archon_job_member* members, int count, const char* role) {
  for (int rank = 0; rank < count; ++rank)
    if (strcmp(members[rank].role, role) == 0) return rank;
  return -1;
}

int archon_join_job(const char* role, const char* peer, archon_job_member* members, MPI_Comm* own) {
  archon_job_member self;
  memset(&self, 0, sizeof self);
  strncpy(self.role, role, ARCHON_ROLE_BYTES - 1);
  strncpy(self.peer, peer, ARCHON_ROLE_BYTES - 1);
  int code =
      MPI_Allgather(&self, sizeof self, MPI_BYTE, members, sizeof self, MPI_BYTE, MPI_COMM_WORLD);
  if (code != MPI_SUCCESS) return code;

  int size = 0, rank = 0;
  if ((code = MPI_Comm_size(MPI_COMM_WORLD, &size)) != MPI_SUCCESS) return code;
  if ((code = MPI_Comm_rank(MPI_COMM_WORLD, &rank)) != MPI_SUCCESS) return code;
  const int color = archon_first_of_role(members, size, self.role);
  return MPI_Comm_split(MPI_COMM_WORLD, color, rank, own);
}
