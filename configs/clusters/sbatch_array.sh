#!/usr/bin/env bash
# Prediction by a job array, without a scheduler of our own: the tasks share OUTPUT through files beside it.
#   sbatch configs/clusters/sbatch_array.sh RUN INPUT OUTPUT.zarr [options of synbb predict]
# Copy and change it. Tasks may begin late, be killed and be submitted again, in any number; all must have the same
# options. OUTPUT must lie where every node sees it. When the last block is marked, the output says `complete: true`.
#SBATCH --job-name=synbb
#SBATCH --array=0-7
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --requeue
set -euo pipefail

# . path/to/venv/bin/activate
# Without a GPU: export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4    (docs/tutorial_large_volume.md)
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
exec synbb predict "$@" --worker
