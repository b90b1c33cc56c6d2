"""The families of real encoders, one file each: what differs between them, in words that `lib.encoders.upstream` reads.

Each file has
``LAYOUTS``, functions from a key of our network to the key(s) of a checkpoint (several are stacked in order);
``PREFIXES``, one of which may stand before every key; ``DROPPED``, a pattern of the keys that no token depends on;
``CLS``, what stands for [cls] by default; ``PADDING``, what upstream does with a short clip;
``STATISTICS``, mean and standard deviation of the features by dataset;
``native_frames(config)``, the length of a clip or None for any;
``front_end(config, statistics, frames, padding)`` and ``build(config)``.
"""
