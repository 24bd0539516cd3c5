use std::pin::Pin;
use std::task::{Context, Poll};
use std::{io, mem, net, os::unix};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket that may be left alone for a while.
///
/// The runtime's thread that waits for sockets is woken by all that comes to any
/// of them, whether somebody reads it or not: against a server that sends row by
/// row, that is a switch between threads for each. Of a socket at rest it hears
/// nothing. The next read or write ends the rest.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Resting(Resting),
    /// It could not be watched again.
    Lost,
}

#[derive(Debug)]
pub(super) enum Resting {
    Tcp(net::TcpStream),
    Unix(unix::net::UnixStream),
}

impl Socket {
    pub(super) fn rest(&mut self) -> io::Result<()> {
        *self = match mem::replace(self, Socket::Lost) {
            Socket::Tcp(stream) => Socket::Resting(Resting::Tcp(stream.into_std()?)),
            Socket::Unix(stream) => Socket::Resting(Resting::Unix(stream.into_std()?)),
            other => other,
        };
        Ok(())
    }

    fn watched(&mut self) -> io::Result<&mut Socket> {
        if let Socket::Resting(_) = self
            && let Socket::Resting(resting) = mem::replace(self, Socket::Lost)
        {
            *self = match resting {
                Resting::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
                Resting::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
            };
        }
        Ok(self)
    }

    /// Of TCP.
    pub(super) fn peer_addr(&self) -> Option<net::SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.peer_addr().ok(),
            Socket::Resting(Resting::Tcp(stream)) => stream.peer_addr().ok(),
            Socket::Unix(_) | Socket::Resting(Resting::Unix(_)) | Socket::Lost => None,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.watched()? {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Socket::Resting(_) | Socket::Lost => Poll::Ready(Err(lost())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.watched()? {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Socket::Resting(_) | Socket::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.watched()? {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Socket::Resting(_) | Socket::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.watched()? {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Resting(_) | Socket::Lost => Poll::Ready(Err(lost())),
        }
    }
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    async fn tcp() -> (Socket, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::Tcp(ours), Socket::Tcp(listener.accept().await.unwrap().0))
    }

    #[tokio::test]
    async fn what_came_while_it_rested_is_read_after() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        for (mut ours, mut theirs) in [tcp().await, (Socket::Unix(ours), Socket::Unix(theirs))] {
            ours.rest().unwrap();
            theirs.write_all(b"row").await.unwrap();
            let mut row = [0; 3];
            let read = timeout(Duration::from_secs(10), ours.read_exact(&mut row));
            read.await.expect("it is told that something came").unwrap();
            assert_eq!(&row, b"row");
        }
    }

    #[tokio::test]
    async fn a_write_ends_the_rest() {
        let (mut ours, mut theirs) = tcp().await;
        ours.rest().unwrap();
        ours.rest().unwrap();
        ours.write_all(b"status").await.unwrap();
        assert!(matches!(ours, Socket::Tcp(_)));
        theirs.read_exact(&mut [0; 6]).await.unwrap();
    }
}
