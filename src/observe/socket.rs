use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// A Unix socket that listens at a path, where it is removed on drop.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Only its owner may connect. What a process that is gone has left there is
    /// replaced.
    ///
    /// # Errors
    /// `AddrInUse` while another process listens there.
    pub(super) async fn bind(path: &Path) -> io::Result<Socket> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_socket(path) => {
                match UnixStream::connect(path).await {
                    Err(nobody) if nobody.kind() == io::ErrorKind::ConnectionRefused => {
                        fs::remove_file(path)?;
                        UnixListener::bind(path)?
                    }
                    Ok(_) | Err(_) => return Err(error),
                }
            }
            bound => bound?,
        };
        let socket = Socket { listener, path: path.to_owned() };
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(socket)
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Who comes next replaces it if this fails.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_path_belongs_to_one_process_until_it_is_gone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("rowcast.sock");
        let first = Socket::bind(&path).await.expect("nobody is there");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = Socket::bind(&path).await.expect_err("it is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);

        drop(first);
        assert!(!path.exists());
        // What a killed process leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("it is free"));
        let next = Socket::bind(&path).await.expect("nobody listens there any more");
        drop(next);
        fs::write(&path, "mine").expect("writes");
        Socket::bind(&path).await.expect_err("no socket");
        assert_eq!(fs::read_to_string(&path).expect("it is still there"), "mine");
    }
}
