//! Integration with real processes, in one binary.

mod lab;
