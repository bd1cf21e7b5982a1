#!/bin/bash
# Train on 2 machines with 4 GPUs each:  sbatch experiments/cluster/slurm.sh experiments/qm9-fff.toml
# A job that ends early, also by its time limit, goes on from the last checkpoint when it is queued again.
#SBATCH --job-name=molflow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

config=$1
run=runs/$(basename "$config" .toml)                 # on a file system that all machines share
export MOLFLOW_CACHE=${MOLFLOW_CACHE:-$PWD/cache}    # this too
export OMP_NUM_THREADS=4
master=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

resume=()
[ -e "$run/training_state.pt" ] && resume=(--resume)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$master:29500" \
    -m molflow train "$config" --out "$run" --set training.device=cuda --set training.workers=2 "${resume[@]}"
