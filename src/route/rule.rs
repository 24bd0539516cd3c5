use jiff::tz::TimeZone;

use super::{Config, Problem};

/// What all rules have in common.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of timestamps without one, as the application writes them.
    pub timezone: TimeZone,
    /// The longest payload that the endpoint takes.
    pub max_data_bytes: usize,
}

/// All rules, parsed: what they ask for, of whichever table.
#[derive(Debug)]
pub struct Rules {
    pub(super) options: Options,
}

impl Rules {
    /// Touches nothing but the configuration: no catalog.
    ///
    /// # Errors
    /// Everything that is wrong with any rule.
    pub fn compile(configs: Vec<Config>, options: Options) -> Result<Rules, Vec<Problem>> {
        let _ = configs;
        Ok(Rules { options })
    }
}
