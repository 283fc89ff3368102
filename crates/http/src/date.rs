//! `Date` in the one format that RFC 9110 section 5.6.7 lets us send, IMF-fixdate. Reads no clock: the caller keeps the
//! text of the current second.

/// 29 bytes such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub type HttpDate = [u8; 29];

const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed";
const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// The instant `secs` seconds after the Unix epoch. Years beyond 9999 do not fit the format and give its last second.
pub fn imf_fixdate(secs: u64) -> HttpDate {
    const LAST: u64 = 253_402_300_799;
    let secs = secs.min(LAST);
    let days = secs / 86_400;
    let time = secs % 86_400;
    let (year, month, day) = civil_from_days(days);

    let mut text = *b"Day, 00 Mon 0000 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    text[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    put_two_digits(&mut text[5..7], day);
    let name = (month as usize - 1) * 3;
    text[8..11].copy_from_slice(&MONTHS[name..name + 3]);
    put_two_digits(&mut text[12..14], year / 100);
    put_two_digits(&mut text[14..16], year % 100);
    put_two_digits(&mut text[17..19], time / 3600);
    put_two_digits(&mut text[20..22], time / 60 % 60);
    put_two_digits(&mut text[23..25], time % 60);
    text
}

/// Year, month (1 to 12) and day (1 to 31) of a day number counted from 1970-01-01, in the proleptic Gregorian calendar
/// (Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`, for days since the epoch only).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

fn put_two_digits(place: &mut [u8], value: u64) {
    place[0] = b'0' + (value / 10 % 10) as u8;
    place[1] = b'0' + (value % 10) as u8;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(secs: u64) -> String {
        String::from_utf8(imf_fixdate(secs).to_vec()).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc_is_printed_as_the_rfc_prints_it() {
        assert_eq!(text(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn epochs_leap_days_and_the_last_second_are_right() {
        assert_eq!(text(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(text(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(text(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(text(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
        assert_eq!(text(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
