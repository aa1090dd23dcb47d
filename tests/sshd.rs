//! An sshd on a free port, whose keys are named in its authorized_keys.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::{Place, Run};

/// The place of a public key in the text of authorized_keys. The name of the key follows.
const PUBLIC_KEY: &str = "ssh-ed25519 AAAA ";

/// Starts one sshd for each connection, in a directory of its own, where all its keys are.
pub struct Sshd {
    port: u16,
    dir: PathBuf,
}

impl Sshd {
    /// Makes a key for each `ssh-ed25519 AAAA NAME` in the text of authorized_keys. `config` is added to that of sshd.
    pub fn new(place: &Place, authorized_keys: &str, config: &str) -> Self {
        let dir = place.path("sshd");
        fs::create_dir(&dir).expect("a directory");
        let with_keys: String = authorized_keys.lines().map(|line| with_key(&dir, line)).collect();
        make_key(&dir, "host");
        fs::write(dir.join("authorized_keys"), with_keys).expect("a file");
        let own = format!(
            "HostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPidFile none\nLogLevel ERROR\n{config}",
            dir = dir.display()
        );
        fs::write(dir.join("config"), own).expect("a file");
        // sshd needs this directory and does not create it.
        fs::create_dir_all("/run/sshd").expect("/run/sshd, which sshd needs");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let config = dir.join("config");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let output = stream.try_clone().expect("a descriptor");
                let mut sshd = Command::new("/usr/sbin/sshd");
                sshd.args(["-i", "-e", "-f"]).arg(&config).stdin(Stdio::from(OwnedFd::from(stream)));
                sshd.stdout(Stdio::from(OwnedFd::from(output)));
                let mut child = sshd.spawn().expect("sshd (scripts/test installs it)");
                // Closes the copies of the socket in the test, so that the socket closes when sshd ends.
                drop(sshd);
                thread::spawn(move || child.wait());
            }
        });
        Self { port, dir }
    }

    /// The options with which ssh, scp and sftp use this key.
    pub fn options(&self, key: &str) -> Vec<String> {
        let (key, known) = (self.dir.join(key), self.dir.join("known_hosts"));
        let options = format!(
            "-F none -oPort={} -i {} -oIdentitiesOnly=yes -oIdentityAgent=none -oBatchMode=yes -oLogLevel=ERROR \
             -oStrictHostKeyChecking=no -oUserKnownHostsFile={}",
            self.port,
            key.display(),
            known.display()
        );
        options.split_whitespace().map(Into::into).collect()
    }

    /// The words that run ssh with this key, without a command.
    pub fn client(&self, key: &str) -> Vec<String> {
        let options = self.options(key).into_iter();
        std::iter::once("ssh".into()).chain(options).chain(["127.0.0.1".into()]).collect()
    }
}

/// The line of authorized_keys with a new key in it, if it names one.
fn with_key(dir: &Path, line: &str) -> String {
    match line.split_once(PUBLIC_KEY) {
        Some((options, name)) if !line.starts_with('#') => format!("{options}{}", make_key(dir, name)),
        _ => format!("{line}\n"),
    }
}

/// Makes a key. Returns its public half.
fn make_key(dir: &Path, name: &str) -> String {
    Run::program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).args([dir.join(name)]).success();
    fs::read_to_string(dir.join(format!("{name}.pub"))).expect("a key")
}
