//! Finding zeros.
