"""Where sound comes from: event banks, the mixer, the datasets."""
