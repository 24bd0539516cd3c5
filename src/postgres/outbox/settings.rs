//! The settings of a session that say how values are printed.

use crate::postgres::settings::SESSION_SETTINGS;

/// Those that the values of a type, or of several, depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings(u8);

/// The place in it is the bit.
const PRINTING: [&str; 5] =
    ["DateStyle", "TimeZone", "IntervalStyle", "extra_float_digits", "bytea_output"];

impl Settings {
    pub const NONE: Settings = Settings(0);
    const ALL: Settings = Settings(0b11111);

    /// By the OIDs of `pg_type.dat`, which never change. Of a type that it does
    /// not know, all: an array or composite may consist of any.
    pub fn of_type(oid: u32) -> Settings {
        match oid {
            // bool, "char", name, int8, int2, int4, text, oid
            16 | 18 | 19 | 20 | 21 | 23 | 25 | 26
            // json, xml, cidr, macaddr8, macaddr, inet, char(n), varchar(n), time
            | 114 | 142 | 650 | 774 | 829 | 869 | 1042 | 1043 | 1083
            // bit(n), varbit, numeric, uuid, tsvector, tsquery, jsonb, jsonpath
            | 1560 | 1562 | 1700 | 2950 | 3614 | 3615 | 3802 | 4072
            // arrays of int2, int4, text, varchar(n), int8, uuid, jsonb
            | 1005 | 1007 | 1009 | 1015 | 1016 | 2951 | 3807 => Settings::NONE,
            1082 | 1114 => Settings(0b00001),
            1184 => Settings(0b00011),
            1186 => Settings(0b00100),
            700 | 701 => Settings(0b01000),
            17 => Settings(0b10000),
            _ => Settings::ALL,
        }
    }

    pub fn and(self, other: Settings) -> Settings {
        Settings(self.0 | other.0)
    }

    /// Names and values, as the stream of logical replication has them set.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let taken = move |place: &usize| self.0 & (1 << *place) != 0;
        (0..PRINTING.len()).filter(taken).map(|place| {
            let mut all = SESSION_SETTINGS.into_iter();
            all.find(|(name, _)| *name == PRINTING[place]).expect("a session sets all of them")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_sets_what_its_columns_need() {
        let bigint_and_timestamptz = Settings::of_type(20).and(Settings::of_type(1184));
        let set: Vec<_> = bigint_and_timestamptz.iter().collect();
        assert_eq!(set, [("DateStyle", "ISO"), ("TimeZone", "UTC")]);
        // An extension's type has an OID past all built-in ones.
        assert_eq!(Settings::of_type(16_400).iter().count(), PRINTING.len());
    }
}
