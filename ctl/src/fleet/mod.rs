//! The declarative file: all that operators define, and the way from what is to what the file says.

pub mod diff;
pub mod file;

#[cfg(test)]
mod tests;
