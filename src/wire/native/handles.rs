//! Handles: the numbers by which the remote refers to feeds.

use crate::model::{Error, Result};
use crate::wire::protobuf::unexpected;

/// The number of handles that a writer gives. Then it gives handles again.
pub const HANDLES_MAX: usize = 1 << 16;
/// The maximum memory for handles, in bytes: it has room for [`HANDLES_MAX`] ids of any length.
const BYTES_MAX: usize = 32 << 20;
/// The memory that an id takes besides its bytes.
const ID_EXTRA_BYTES: usize = 48;

/// Handle → id.
#[derive(Default)]
pub struct Handles {
    ids: Vec<Box<str>>,
    bytes: usize,
}

impl Handles {
    /// Gives a handle to the feed of `peer`: the next handle, or a known one, which then no longer belongs to its feed before.
    ///
    /// # Errors
    /// [`Error::Wire`] if `handle` is above the next one, or there are too many feeds.
    pub fn add(&mut self, handle: u32, peer: &str) -> Result<()> {
        let bytes_of = |peer: &str| peer.len() + ID_EXTRA_BYTES;
        let (at, next) = (handle as usize, self.ids.len());
        let before = match self.ids.get(at) {
            Some(before) => bytes_of(before),
            None if at == next => 0,
            None => return Err(unexpected(format!("feed number {handle} instead of {next}"))),
        };
        self.bytes = self.bytes - before + bytes_of(peer);
        if self.bytes > BYTES_MAX {
            return Err(Error::Wire("the remote named more feeds than one session has room for: run it again".into()));
        }
        if at == next {
            self.ids.push(peer.into());
        } else {
            self.ids[at] = peer.into();
        }
        Ok(())
    }

    /// The peer id of a handle.
    ///
    /// # Errors
    /// [`Error::Wire`] if the handle is unknown.
    pub fn get(&self, handle: u32) -> Result<&str> {
        let peer = self.ids.get(handle as usize);
        peer.map(|peer| &**peer).ok_or_else(|| unexpected(format!("the unknown feed number {handle}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_by_their_handles() {
        let mut handles = Handles::default();
        for (handle, peer) in [(0, "a"), (1, "bc"), (2, "\u{e9}"), (1, "again")] {
            handles.add(handle, peer).unwrap();
        }
        let ids: Vec<_> = (0..3).map(|handle| handles.get(handle).unwrap().to_owned()).collect();
        assert_eq!(ids, ["a", "again", "\u{e9}"]);
        assert!(handles.get(3).is_err() && handles.add(4, "d").is_err());
    }

    #[test]
    fn there_is_room_for_all_handles_of_a_writer_and_not_for_any_number() {
        let (mut handles, long) = (Handles::default(), "i".repeat(255));
        let named = (0..).take_while(|&handle| handles.add(handle, &long).is_ok()).count();
        assert!((HANDLES_MAX..HANDLES_MAX * 2).contains(&named), "{named}");
        let mut handles = Handles::default();
        (0..HANDLES_MAX as u32).for_each(|handle| handles.add(handle, "i").unwrap());
        (0..HANDLES_MAX as u32).for_each(|handle| handles.add(handle, &long).unwrap());
    }
}
