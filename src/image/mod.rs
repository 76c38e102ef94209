//! One LVD image.
