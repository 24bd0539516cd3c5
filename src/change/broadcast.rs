/// An event that the application sends by a transaction, without any row. The
/// source has checked only that `data` is JSON: any role may emit one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broadcast {
    pub channel: Box<str>,
    pub event: Box<str>,
    /// A JSON text.
    pub data: Box<str>,
}
