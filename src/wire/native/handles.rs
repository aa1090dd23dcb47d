//! Handles: the numbers by which the remote refers to feeds.

use crate::model::{Error, Result};
use crate::wire::FEEDS_MAX;
use crate::wire::protobuf::unexpected;

/// The maximum length of all ids together, in bytes.
const IDS_BYTES_MAX: usize = 32 << 20;
/// The number of bytes by which the memory for ids grows at once.
const GROW_BYTES_MIN: usize = 1 << 10;
const GROW_BYTES_MAX: usize = 4 << 20;

/// Handle → id. Holds many ids in little memory.
#[derive(Default)]
pub struct Handles {
    ids: String,
    /// Where each id ends.
    ends: Vec<u32>,
}

impl Handles {
    /// Adds the next handle, for the feed of `peer`.
    ///
    /// # Errors
    /// [`Error::Wire`] if `handle` is not the next one, or there are too many feeds.
    pub fn add(&mut self, handle: u32, peer: &str) -> Result<()> {
        if handle as usize != self.ends.len() {
            return Err(unexpected(format!("feed number {handle} instead of {}", self.ends.len())));
        }
        if self.ends.len() == FEEDS_MAX || self.ids.len() + peer.len() > IDS_BYTES_MAX {
            return Err(Error::Wire("the remote named more feeds than one session has room for: run it again".into()));
        }
        if self.ids.capacity() - self.ids.len() < peer.len() {
            // The memory doubles up to a limit, so that little of it is unused.
            self.ids.reserve_exact(self.ids.len().clamp(GROW_BYTES_MIN, GROW_BYTES_MAX));
        }
        self.ids.push_str(peer);
        self.ends.push(self.ids.len() as u32);
        Ok(())
    }

    /// The peer id of a handle.
    ///
    /// # Errors
    /// [`Error::Wire`] if the handle is unknown.
    pub fn get(&self, handle: u32) -> Result<&str> {
        let at = handle as usize;
        let end = self.ends.get(at).ok_or_else(|| unexpected(format!("the unknown feed number {handle}")))?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        Ok(&self.ids[start as usize..*end as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_by_their_handles() {
        let mut handles = Handles::default();
        for (handle, peer) in ["a", "bc", "\u{e9}"].into_iter().enumerate() {
            handles.add(handle as u32, peer).unwrap();
        }
        let ids: Vec<_> = (0..3).map(|handle| handles.get(handle).unwrap().to_owned()).collect();
        assert_eq!(ids, ["a", "bc", "\u{e9}"]);
        assert!(handles.get(3).is_err() && handles.add(2, "d").is_err() && handles.add(4, "d").is_err());
        let long = "i".repeat(255);
        let named = (3..).take_while(|&handle| handles.add(handle, &long).is_ok()).count();
        assert_eq!(named, (IDS_BYTES_MAX - 5) / 255);
    }
}
