//! Two quoting rules: the shell's, by which GUNICORN_CMD_ARGS is split, and systemd's, by which an `env_file` is read.
//!
//! Pure text in, pure text out. Invariant: nothing of a value appears in an error, since values may be secrets.

/// Splits as Python's `shlex.split` does: POSIX quoting, no comments, no expansion. The error is a clause.
pub(crate) fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('\'') => break,
                        Some(letter) => word.push(letter),
                        None => return Err("a quotation is not closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match letters.next() {
                        Some('"') => break,
                        Some('\\') => match letters.next() {
                            Some(letter @ ('"' | '\\')) => word.push(letter),
                            Some(letter) => word.extend(['\\', letter]),
                            None => return Err("a quotation is not closed"),
                        },
                        Some(letter) => word.push(letter),
                        None => return Err("a quotation is not closed"),
                    }
                }
            }
            '\\' => match letters.next() {
                Some(letter) => word.get_or_insert_default().push(letter),
                None => return Err("nothing follows the last backslash"),
            },
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Reads systemd.exec(5)'s EnvironmentFile= syntax: `NAME=VALUE` lines, `#` and `;` comments, single and double quotes,
/// backslashes, continued lines. Later lines win where names repeat; all are returned. The error is a line number and
/// a clause.
pub(crate) fn environment_file(text: &str) -> Result<Vec<(String, String)>, (usize, String)> {
    let mut pairs = Vec::new();
    let mut letters = Lines { letters: text.chars().peekable(), line: 1 };
    loop {
        letters.skip(char::is_whitespace);
        let line = letters.line;
        match letters.letters.peek() {
            None => return Ok(pairs),
            Some('#' | ';') => letters.skip(|letter| letter != '\n'),
            Some(_) => {
                let name = letters.name().ok_or_else(|| (line, "there is no = in it".to_owned()))?;
                check_name(&name).map_err(|what| (line, what))?;
                let value = letters.value().map_err(|what| (line, what.to_owned()))?;
                pairs.push((name, value));
            }
        }
    }
}

/// Whether a name can be that of an environment variable; the error is a clause.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name before the = is empty".to_owned());
    }
    if let Some(rest) = name.strip_prefix("export ") {
        return Err(format!("write {} without export: this is no shell script", rest.trim()));
    }
    if name.contains(|letter: char| letter.is_whitespace() || letter == '\0') {
        return Err("the name before the = contains a blank".to_owned());
    }
    Ok(())
}

struct Lines<'t> {
    letters: std::iter::Peekable<std::str::Chars<'t>>,
    line: usize,
}

impl Lines<'_> {
    fn next(&mut self) -> Option<char> {
        let letter = self.letters.next();
        self.line += usize::from(letter == Some('\n'));
        letter
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        while self.letters.peek().is_some_and(|&letter| unwanted(letter)) {
            self.next();
        }
    }

    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        loop {
            match self.next()? {
                '=' => return Some(name.trim_end().to_owned()),
                '\n' => return None,
                letter => name.push(letter),
            }
        }
    }

    fn value(&mut self) -> Result<String, &'static str> {
        self.skip(|letter| letter == ' ' || letter == '\t');
        let mut value = String::new();
        // Blanks at the end of an unquoted value do not count.
        let mut kept = 0;
        loop {
            match self.next() {
                None | Some('\n') => {
                    value.truncate(kept);
                    return Ok(value);
                }
                Some('\\') => match self.next() {
                    Some('\n') | None => {}
                    Some(letter) => {
                        value.push(letter);
                        kept = value.len();
                    }
                },
                Some('\'') => {
                    loop {
                        match self.next() {
                            Some('\'') => break,
                            Some(letter) => value.push(letter),
                            None => return Err("a quotation that begins here is not closed"),
                        }
                    }
                    kept = value.len();
                }
                Some('"') => {
                    loop {
                        match self.next() {
                            Some('"') => break,
                            Some('\\') => match self.next() {
                                Some('\n') => {}
                                Some(letter @ ('"' | '\\' | '`' | '$')) => value.push(letter),
                                Some(letter) => value.extend(['\\', letter]),
                                None => return Err("a quotation that begins here is not closed"),
                            },
                            Some(letter) => value.push(letter),
                            None => return Err("a quotation that begins here is not closed"),
                        }
                    }
                    kept = value.len();
                }
                Some(letter) => {
                    value.push(letter);
                    if !letter.is_whitespace() {
                        kept = value.len();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gunicorn_cmd_args_is_split_as_shlex_splits_it() {
        for (text, words) in [
            ("", vec![]),
            ("--bind=127.0.0.1 --workers=3", vec!["--bind=127.0.0.1", "--workers=3"]),
            ("  -w\t3\n", vec!["-w", "3"]),
            (r#"--access-logformat "%(h)s \"%(r)s\"""#, vec!["--access-logformat", r#"%(h)s "%(r)s""#]),
            (r"-e 'A=b c' -e D=\ e", vec!["-e", "A=b c", "-e", "D= e"]),
            ("'' a\"\"", vec!["", "a"]),
            ("a#b #c", vec!["a#b", "#c"]),
            (r#""\a""#, vec![r"\a"]),
        ] {
            assert_eq!(split(text), Ok(words.into_iter().map(str::to_owned).collect()), "{text:?}");
        }
        assert_eq!(split("'a"), Err("a quotation is not closed"));
        assert_eq!(split("\"a"), Err("a quotation is not closed"));
        assert_eq!(split("a\\"), Err("nothing follows the last backslash"));
    }

    fn pairs(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, (usize, String)> {
        Ok(list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn an_environment_file_is_read_as_systemd_reads_it() {
        let text = r#"
# a comment
; another
PLAIN=value
  INDENTED = spaced out  
EMPTY=
QUOTED="double \"quoted\" \$HOME # kept"
SINGLE='it''s $raw \n'
MIXED=a"b c"'d'
ESCAPED=a\ b\\
LONG=one \
two
LINES="first
second"
HASH=a#b
URL=postgres://user:p=w@host/db?x=1
"#;
        assert_eq!(
            environment_file(text),
            pairs(&[
                ("PLAIN", "value"),
                ("INDENTED", "spaced out"),
                ("EMPTY", ""),
                ("QUOTED", "double \"quoted\" $HOME # kept"),
                ("SINGLE", "its $raw \\n"),
                ("MIXED", "ab cd"),
                ("ESCAPED", "a b\\"),
                ("LONG", "one two"),
                ("LINES", "first\nsecond"),
                ("HASH", "a#b"),
                ("URL", "postgres://user:p=w@host/db?x=1"),
            ])
        );
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number_and_never_by_its_value() {
        for (text, line, what) in [
            ("A=1\nexport SECRET=x\n", 2, "write SECRET without export: this is no shell script"),
            ("\n\nsecret", 3, "there is no = in it"),
            ("=x", 1, "the name before the = is empty"),
            ("A B=x", 1, "the name before the = contains a blank"),
            ("A=1\nB=\"open\nC=2\n", 2, "a quotation that begins here is not closed"),
            ("B='open", 1, "a quotation that begins here is not closed"),
        ] {
            assert_eq!(environment_file(text), Err((line, what.to_owned())), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_quoted_is_read_as_it_was(words in proptest::collection::vec("[^\0]{0,12}", 0..5)) {
            let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\"'\"'"))).collect();
            proptest::prop_assert_eq!(split(&quoted.join(" ")), Ok(words.clone()));
            let lines: String = quoted.iter().map(|word| format!("NAME={word}\n")).collect();
            let read = environment_file(&lines).map(|pairs| pairs.into_iter().map(|(_, value)| value).collect());
            proptest::prop_assert_eq!(read, Ok(words));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = split(&text);
            let _ = environment_file(&text);
        }
    }
}
