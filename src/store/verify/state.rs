//! The state of data.mdb that is checked: what one transaction has committed.
//!
//! A writer uses pages again that no state needs which a process reads. So the state is pinned: a read transaction of LMDB
//! takes a slot in the table of readers, and LMDB then keeps all pages of this state. To begin it, LMDB reads only the two meta
//! pages, which were checked before. If the log cannot be opened, no new process can write to it. The lock of the writers then
//! keeps away a process that has opened it before.
//!
//! Packs are no pages: other processes replace and remove them meanwhile. The caller finds their entries in the newest state, or
//! keeps all packs in their places with the lock for sealing.

use std::fs::File;
use std::path::Path;

use super::pages::{BadPage, Meta};
use super::{Damage, Finding, Part, Report};
use crate::model::{Error, Result};
use crate::store::files::data;
use crate::store::files::lock::LockFile;
use crate::store::lmdb::{Env, Pin};

/// The number of times that a state is pinned again, if writers commit twice before its meta page is read.
const ATTEMPTS: u32 = 1000;

/// A state of the data file that cannot change.
pub struct State<'e> {
    pub file: File,
    /// `None`: no meta page can be used.
    pub meta: Option<Meta>,
    /// `None`: the log cannot be opened.
    pub env: Option<&'e Env>,
}

/// Calls `check` with the newest state of the data file, while this state cannot change. `is_usable`: the log can be opened.
/// `keeps_packs`: no pack is replaced or removed meanwhile. Without a data file, the result is the default.
pub fn with_newest<T: Default>(
    dir: &Path,
    (is_usable, keeps_packs): (bool, bool),
    report: &mut Report<'_>,
    check: impl FnOnce(State<'_>, &mut Report<'_>) -> Result<T>,
) -> Result<T> {
    let file = match data::open(dir) {
        Err(Error::NoLog(_)) => return Ok(T::default()),
        opened => opened?,
    };
    if let Some(env) = open_env(dir, is_usable, &file)? {
        // A program that wants to seal meanwhile does without.
        let _sealing = if keeps_packs { env.wait_to_seal()? } else { None };
        if let Some((_pin, meta)) = pin_newest(&env, &file)? {
            return check(State { file, meta: Some(meta), env: Some(&env) }, report);
        }
    }
    let lock = LockFile::open(dir).ok();
    let _turn = lock.as_ref().map(LockFile::wait_to_write).transpose()?;
    let meta = newest(&file, report)?;
    check(State { file, meta, env: None }, report)
}

/// Keeps the newest state from being changed, and returns its meta page. `None`: the meta pages cannot be used, or writers commit
/// too often.
pub fn pin_newest<'e>(env: &'e Env, file: &File) -> Result<Option<(Pin<'e>, Meta)>> {
    for _ in 0..ATTEMPTS {
        let pin = env.pin()?;
        // A writer that has committed twice since then has written over the meta page.
        let metas = read_both(file).into_iter().flatten();
        if let Some(meta) = metas.into_iter().find(|meta| meta.txn == pin.number()) {
            return Ok(Some((pin, meta)));
        }
    }
    Ok(None)
}

/// Opens the log with LMDB, if this is safe. Returns `None` if LMDB refuses the file.
fn open_env(dir: &Path, is_usable: bool, file: &File) -> Result<Option<Env>> {
    if !is_usable || read_both(file).is_err() {
        return Ok(None);
    }
    match Env::open_unread(dir) {
        Err(Error::Corrupt(_) | Error::Database(..)) => Ok(None),
        opened => opened.map(Some),
    }
}

fn read_both(file: &File) -> Result<[Meta; 2], BadPage> {
    let page_bytes = Meta::page_size(file)?;
    let first = Meta::read(file, 0, page_bytes)?;
    let second = Meta::read(file, 1, first.page_bytes)?;
    if first.page_bytes == second.page_bytes && (first.txn.abs_diff(second.txn) == 1 || first.txn == second.txn) {
        Ok([first, second])
    } else {
        Err(BadPage { page: 1, why: "does not follow the other meta page".into() })
    }
}

/// The newer meta page of a file that no process writes. Reports those that are damaged.
fn newest(file: &File, report: &mut Report<'_>) -> Result<Option<Meta>> {
    let both = read_both(file);
    if let Ok([first, second]) = both {
        return Ok(Some(if second.txn > first.txn { second } else { first }));
    }
    let said = |bad: &BadPage| report(Finding::Damage(page_damage(bad)));
    let page_bytes = Meta::page_size(file).unwrap_or_default();
    let first = Meta::read(file, 0, page_bytes);
    // A damaged first page may name the wrong page size.
    let other_sizes = [4096, 8192, 16384, 32768, 2048, 1024, 512];
    let second = std::iter::once(page_bytes).chain(other_sizes).find_map(|size| Meta::read(file, 1, size).ok());
    let second = second.ok_or_else(|| BadPage { page: 1, why: "is no meta page".into() });
    match (&first, &second) {
        (Ok(_), Ok(_)) => both.err().iter().try_for_each(said)?,
        _ => [&first, &second].into_iter().filter_map(|meta| meta.as_ref().err()).try_for_each(said)?,
    }
    Ok([first.ok(), second.ok()].into_iter().flatten().max_by_key(|meta| meta.txn))
}

/// The damage for a page.
pub fn page_damage(bad: &BadPage) -> Damage {
    Damage::new(Part::Page, format!("page {} of data.mdb", bad.page), format!("the page {}", bad.why))
}
