//! The files and the directory of a log in the file system. Of the content, only LMDB's meta pages are read.

pub mod created;
pub mod data;
pub mod directory;
pub mod file;
pub mod identity;
pub mod lock;
pub mod open_once;
pub mod place;
pub mod space;
