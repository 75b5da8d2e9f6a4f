"""Fine-tuning: the job from file to run, the loop, the optimiser."""
