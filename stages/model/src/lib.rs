//! The training engine: decoder blocks with hand-written forward and backward, adapters, optimisers, checkpoints,
//! generation. Runs on the device interface of `luthier-kernels`.
