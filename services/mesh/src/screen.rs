//! Makes text from outside safe to display on a terminal, in a log or in a text file (SPEC 2.5).

/// Whether a character is invisible but changes what is displayed: it moves the cursor, changes the direction of
/// writing, or hides text.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// The text with every such character escaped.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_but_changes_what_is_is_written_out_spec_2_5() {
        assert_eq!(escaped("Zürich, 東京, مرحبا"), "Zürich, 東京, مرحبا");
        assert_eq!(escaped("a\u{1b}[2J\n\tb\u{7f}\u{9b}"), "a\\u{1b}[2J\\n\\tb\\u{7f}\\u{9b}");
        let ranges = [0x200b..=0x200f, 0x202a..=0x202e, 0x2060..=0x2069, 0xfeff..=0xfeff];
        for c in ranges.into_iter().flatten().map(|c| char::from_u32(c).unwrap()) {
            assert_eq!(escaped(&format!("x{c}y")), format!("x{}y", c.escape_unicode()));
        }
    }
}
