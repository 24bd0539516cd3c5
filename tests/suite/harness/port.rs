use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{Shutdown, shutdown};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use super::scratch;

/// A TCP port of 127.0.0.1 that takes connections, or refuses them. Nobody else takes it meanwhile.
pub struct Port {
    address: SocketAddr,
    open: Option<Open>,
}

struct Open {
    socket: OwnedFd,
    accepting: JoinHandle<()>,
}

impl Port {
    /// It refuses them.
    pub fn closed() -> Port {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, scratch::free_port()));
        Port { address, open: None }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `meet` is given each connection.
    pub fn open(&mut self, meet: impl Fn(TcpStream) + Send + 'static) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option of every socket");
        socket.bind(self.address).expect("the port is still free");
        let listener = socket.listen(1024).expect("it can listen");
        let socket = listener.as_fd().try_clone_to_owned().expect("there is room for one more");
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("the loopback accepts");
                meet(stream);
            }
        });
        self.open = Some(Open { socket, accepting });
    }

    /// Says whether it was open. The connections that it took stay.
    pub async fn close(&mut self) -> bool {
        let Some(Open { socket, accepting }) = self.open.take() else { return false };
        accepting.abort();
        let ended = accepting.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the listener never ends");
        // A process that is being forked has it too, and would let others connect until it executes its program.
        shutdown(socket, Shutdown::Both).expect("it listens");
        true
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(Open { accepting, .. }) = &self.open {
            accepting.abort();
        }
    }
}
