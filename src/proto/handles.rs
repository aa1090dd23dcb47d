//! What the other side's handles stand for.

use super::FEEDS_MAX;
use super::message::unexpected;
use crate::entry::PeerId;
use crate::error::{Error, Result};

/// The most bytes of all ids together.
const IDS_BYTES_MAX: usize = 32 << 20;
/// How much its place grows at once.
const GROW_BYTES_MIN: usize = 1 << 10;
const GROW_BYTES_MAX: usize = 4 << 20;

/// Handle → id, for many ids in little memory.
#[derive(Default)]
pub struct Handles {
    ids: String,
    /// Where each id ends.
    ends: Vec<u32>,
}

impl Handles {
    /// Gives the next handle to `peer`.
    ///
    /// # Errors
    /// [`Error::Wire`] if `handle` is not the next one, or too much was named.
    pub fn name(&mut self, handle: u32, peer: &str) -> Result<()> {
        if handle as usize != self.ends.len() {
            return Err(unexpected(format!("the handle {handle}, which is not the next one")));
        }
        if self.ends.len() == FEEDS_MAX || self.ids.len() + peer.len() > IDS_BYTES_MAX {
            return Err(Error::Wire("more feeds than one session has room for: run it again".into()));
        }
        if self.ids.capacity() - self.ids.len() < peer.len() {
            // Doubling up to a bound, which leaves less of it unused.
            self.ids.reserve_exact(self.ids.len().clamp(GROW_BYTES_MIN, GROW_BYTES_MAX));
        }
        self.ids.push_str(peer);
        self.ends.push(self.ids.len() as u32);
        Ok(())
    }

    /// The feed of a handle.
    ///
    /// # Errors
    /// [`Error::Wire`] if it was not named.
    pub fn get(&self, handle: u32) -> Result<PeerId> {
        let at = handle as usize;
        let end = self.ends.get(at).ok_or_else(|| unexpected(format!("the handle {handle}, which was not named")))?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        PeerId::new(&self.ids[start as usize..*end as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_by_their_handles() {
        let mut handles = Handles::default();
        for (handle, peer) in ["a", "bc", "\u{e9}"].into_iter().enumerate() {
            handles.name(handle as u32, peer).unwrap();
        }
        let ids: Vec<_> = (0..3).map(|handle| handles.get(handle).unwrap().as_str().to_owned()).collect();
        assert_eq!(ids, ["a", "bc", "\u{e9}"]);
        assert!(handles.get(3).is_err() && handles.name(2, "d").is_err() && handles.name(4, "d").is_err());
        let long = "i".repeat(255);
        let named = (3..).take_while(|&handle| handles.name(handle, &long).is_ok()).count();
        assert_eq!(named, (IDS_BYTES_MAX - 5) / 255);
    }
}
