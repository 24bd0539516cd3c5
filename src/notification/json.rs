use std::io;

/// The length of `text` as a JSON string literal, quotes included: what a
/// payload takes of a request, since the protocol sends it as a string.
pub fn escaped_len(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0..0x20 => 5,
            _ => 0,
        })
        .sum();
    text.len() + escapes + 2
}

/// Appends `text` as a JSON string literal.
pub fn write_string(out: &mut String, text: &str) {
    // Few texts need an escape; the writer would check each piece's UTF-8 anew.
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
        return;
    }
    serde_json::to_writer(Append(out), text).expect("a string takes any text");
}

struct Append<'a>(&'a mut String);

impl io::Write for Append<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).map_err(io::Error::other)?;
        self.0.push_str(text);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escaped_length_is_what_serde_json_writes() {
        let every_ascii: String = (0..128_u8).map(char::from).collect();
        for text in ["", "plain", r#"{"a":"b\n"}"#, "é\u{1}\t", &every_ascii] {
            let written = serde_json::to_string(text).expect("a string is JSON");
            assert_eq!(escaped_len(text), written.len(), "{text:?}");
        }
    }
}
