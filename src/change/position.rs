/// How far a source has come. It grows within a session and only the source
/// that made it knows what it stands for; everyone else compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    pub fn new(value: u64) -> Position {
        Position(value)
    }

    /// For the source that made it.
    pub fn value(self) -> u64 {
        self.0
    }
}
