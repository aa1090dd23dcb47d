//! Opens one file of a log, and checks and creates the directories in it.
//!
//! Other users may be allowed to write in the directory. A symbolic link there could lead to any file that this user may
//! write, and the open of a FIFO waits. So only regular files are opened, and only files of users that the owner of the
//! directory trusts.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::model::{Error, Result};

/// The mode of a new file.
const MODE: u32 = 0o600;
/// The mode of a new file that a group shares.
const SHARED_MODE: u32 = 0o660;
/// The mode of a new directory.
const DIR_MODE: u32 = 0o700;
/// New files in a directory get its group.
const SET_GROUP: u32 = 0o2000;
/// The group may write.
const GROUP_WRITE: u32 = 0o020;

/// Opens the file `name` in `dir` for reading. Returns `None` if it does not exist.
///
/// # Errors
/// [`Error::NotARegularFile`] or [`Error::UntrustedOwner`].
pub fn open(dir: &Path, name: &str) -> Result<Option<File>> {
    open_with(dir, name, &options(), "opened")
}

/// Opens the file `name` in `dir` for reading and writing, and creates it if it does not exist.
///
/// # Errors
/// As [`open`].
pub fn open_or_create(dir: &Path, name: &str) -> Result<File> {
    let path = dir.join(name);
    let fail = |doing: &str, err| Error::io(format!("{} cannot be {doing}", path.display()), err);
    let mut options = options();
    options.write(true).mode(MODE);
    loop {
        if let Some(file) = open_with(dir, name, &options, "opened for writing")? {
            return Ok(file);
        }
        match options.clone().create_new(true).open(&path) {
            Ok(file) => {
                share(&file, &about_dir(dir)?).map_err(|err| fail("shared with the group of the directory", err))?;
                return Ok(file);
            }
            // Another process has created it.
            Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
            Err(err) => return Err(fail("created", err)),
        }
    }
}

/// Creates the directory `name` in `dir` if it does not exist. Returns whether it has the access of a new directory: a process can
/// have ended before it called [`copy_access`].
///
/// # Errors
/// As [`check_dir`].
pub fn create_dir(dir: &Path, name: &str) -> Result<bool> {
    let path = dir.join(name);
    match DirBuilder::new().mode(DIR_MODE).create(&path) {
        Ok(()) => {}
        Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
        Err(err) => return Err(Error::io(format!("{} cannot be created", path.display()), err)),
    }
    let about = check_as(dir, name, true)?;
    Ok(about.is_some_and(|about| about.mode() & !SET_GROUP & 0o7777 == DIR_MODE && about.uid() == geteuid().as_raw()))
}

/// Whether the directory `name` exists in `dir`.
///
/// # Errors
/// [`Error::NotAFolder`] if the name belongs to something else, [`Error::UntrustedOwner`].
pub fn check_dir(dir: &Path, name: &str) -> Result<bool> {
    Ok(check_as(dir, name, true)?.is_some())
}

/// Gives the new file or directory `new` the owner and the permissions of the file `model`. So all users of a log can use the
/// files that one of them adds to it.
pub fn copy_access(model: &Path, new: &File) -> Result<()> {
    let copy = || {
        let (model, about) = (fs::metadata(model)?, new.metadata()?);
        let user = Some(model.uid()).filter(|&uid| uid != about.uid() && geteuid().is_root());
        if user.is_some() || model.gid() != about.gid() {
            // Without the permission, the file stays with this user.
            fchown(new, user, Some(model.gid())).ok();
        }
        let readable = model.mode() & 0o666;
        // To enter a directory, a user needs the permission to execute it.
        if !about.is_dir() {
            return new.set_permissions(fs::Permissions::from_mode(readable));
        }
        let mode = readable | (readable & 0o444) >> 2;
        match new.set_permissions(fs::Permissions::from_mode(mode | about.mode() & SET_GROUP)) {
            // A sandbox can forbid this bit, as systemd does. The files in the directory get their group in any case.
            Err(err) if err.kind() == ErrorKind::PermissionDenied => new.set_permissions(fs::Permissions::from_mode(mode)),
            done => done,
        }
    };
    copy().map_err(|err| Error::io("a new file cannot get the permissions of data.mdb", err))
}

/// Between the check and the open, a file may be replaced by a symbolic link or a FIFO.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits());
    options
}

fn open_with(dir: &Path, name: &str, options: &OpenOptions, doing: &str) -> Result<Option<File>> {
    if !check(dir, name)? {
        return Ok(None);
    }
    let path = dir.join(name);
    let opened = options.open(&path).and_then(|file| Ok((file.metadata()?, file)));
    match opened {
        Ok((about, file)) => check_about(&path, &about, &about_dir(dir)?, false).map(|()| Some(file)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::io(format!("{} cannot be {doing}", path.display()), err)),
    }
}

/// Whether the file `name` exists in `dir`.
///
/// # Errors
/// As [`open`].
pub fn check(dir: &Path, name: &str) -> Result<bool> {
    Ok(check_as(dir, name, false)?.is_some())
}

fn check_as(dir: &Path, name: &str, is_folder: bool) -> Result<Option<Metadata>> {
    let path = dir.join(name);
    match fs::symlink_metadata(&path) {
        Ok(about) => check_about(&path, &about, &about_dir(dir)?, is_folder).map(|()| Some(about)),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::io(format!("{} cannot be opened", path.display()), err)),
    }
}

fn about_dir(dir: &Path) -> Result<Metadata> {
    fs::metadata(dir).map_err(|err| Error::io(format!("{} cannot be opened", dir.display()), err))
}

/// Checks the kind and the owner of a file, or of a directory if `is_folder`.
fn check_about(path: &Path, file: &Metadata, dir: &Metadata, is_folder: bool) -> Result<()> {
    let kind = file.file_type();
    let is_right = if is_folder { kind.is_dir() } else { kind.is_file() };
    let kind = match () {
        () if is_right && is_trusted(file, dir, geteuid().as_raw()) => return Ok(()),
        () if is_right => return Err(Error::UntrustedOwner(path.to_path_buf(), file.uid())),
        () if kind.is_symlink() => "a symbolic link",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_dir() => "a directory",
        () if kind.is_file() => "a file",
        () => "a device or a socket",
    };
    let path = path.to_path_buf();
    Err(if is_folder { Error::NotAFolder(path, kind) } else { Error::NotARegularFile(path, kind) })
}

/// Whether this user may use a file with this owner. Members of a group that may write in the directory share the log. Where
/// all owners are unknown, as in a user namespace, all have the same number.
fn is_trusted(file: &Metadata, dir: &Metadata, user: u32) -> bool {
    let by_group = dir.mode() & GROUP_WRITE != 0 && file.gid() == dir.gid();
    [0, user, dir.uid()].contains(&file.uid()) || by_group
}

/// Gives a new file the owner and the mode with which the users of the directory can use it. The directory decides, and not
/// the umask of the user who happens to create the file.
fn share(file: &File, dir: &Metadata) -> std::io::Result<()> {
    if geteuid().is_root() && dir.uid() != 0 {
        // A container may lack the permission. Then the file stays with root.
        fchown(file, Some(dir.uid()), Some(dir.gid())).ok();
    }
    if dir.mode() & GROUP_WRITE != 0 && file.metadata()?.gid() == dir.gid() {
        file.set_permissions(fs::Permissions::from_mode(SHARED_MODE))?;
    }
    Ok(())
}
