"""What a model has computed, lacks, holds back, waits for and must compute again."""
