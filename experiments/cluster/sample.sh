#!/bin/bash
# Sample 10^9 molecules on 1,000 cores:  sbatch experiments/cluster/sample.sh qm9 1000000000 shards
# A task that ends early, also by its time limit, goes on with its first unfinished shard when it is queued again.
#SBATCH --job-name=molflow-sample
#SBATCH --array=1-1000
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

model=$1
n=$2
out=$3                                               # on a file system that all machines share

srun molflow sample --model "$model" -n "$n" --out "$out" --shard-size 100000 --format sdf.gz --resume \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" --quiet
