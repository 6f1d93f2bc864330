"""What tests of several rooms build: runs, logs, studies and replies made by code of ours."""
