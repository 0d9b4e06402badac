#include "engine/io/json.h"

#include <algorithm>
#include <array>
#include <set>

#include "engine/io/file.h"

namespace sidechannel {
namespace {

constexpr std::size_t kMostDepth = 64;
constexpr std::size_t kMostNames = 256;  // objects of nlohmann find their names one by one
constexpr std::size_t kMostValues = std::size_t{1} << 22;

// "line 3, column 7" of byte `at`.
std::string position_in(std::string_view text, std::size_t at) {
  const std::string_view before = text.substr(0, at);
  const std::size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  return fmt::format("line {}, column {}", 1 + std::ranges::count(before, '\n'),
                     1 + before.size() - line_start);
}

// Goes through a text before a document is made of it. (Of two equal names a document keeps one
// without a word, and whatever copies or writes a deep one overflows the stack.)
class Check : public nlohmann::json_sax<Json> {
 public:
  explicit Check(std::string_view text) : text_(text) { Json::sax_parse(text, this); }

  bool null() override { return count(); }
  bool boolean(bool) override { return count(); }
  bool number_integer(std::int64_t) override { return count(); }
  bool number_unsigned(std::uint64_t) override { return count(); }
  bool number_float(double, const std::string&) override { return count(); }
  bool string(std::string&) override { return count(); }
  bool binary(Json::binary_t&) override { return count(); }

  bool start_object(std::size_t) override { return enter(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }

  bool key(std::string& name) override {
    std::set<std::string>& names = names_[depth_];
    SC_CHECK(names.size() < kMostNames, "expected at most {} names in an object, got more",
             kMostNames);
    SC_CHECK(names.insert(name).second, "expected one {}, got two", in_quotes(name));
    return true;
  }

  // `count` characters were read, the last of which has no place.
  bool parse_error(std::size_t count, const std::string&,
                   const nlohmann::json::exception& error) override {
    constexpr int kOutOfRange = 406;
    const bool ends = count > text_.size();
    const std::size_t at = ends ? text_.size() : std::max<std::size_t>(count, 1) - 1;
    throw Error(fmt::format("expected JSON, got {} at {}",
                            error.id == kOutOfRange ? "a number beyond the range of f64"
                            : ends                  ? "its end"
                                                    : in_quotes(text_.substr(at, 1)),
                            position_in(text_, at)));
  }

 private:
  bool count() {
    SC_CHECK(++values_ <= kMostValues, "expected at most {} values, got more", kMostValues);
    return true;
  }
  bool enter() {
    count();
    SC_CHECK(depth_ < kMostDepth, "expected at most {} levels of lists and objects, got more",
             kMostDepth);
    names_[++depth_].clear();
    return true;
  }
  bool leave() {
    --depth_;
    return true;
  }

  std::string_view text_;
  std::size_t values_ = 0;
  std::size_t depth_ = 0;
  std::array<std::set<std::string>, kMostDepth + 1> names_;  // so far in the open object, by depth
};

template <class T>
std::string_view name_of_type() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, std::string>) return "a text";
  if constexpr (std::is_same_v<T, double>) return "a number";
  if constexpr (std::is_same_v<T, std::int64_t>) return "a whole number";
}

template <class T>
std::string range_in_words(T least, T most) {
  using Limits = std::numeric_limits<T>;
  if (least == Limits::lowest() && most == Limits::max()) return "";
  if (most == Limits::max()) return fmt::format(" of at least {}", least);
  if (least == Limits::lowest()) return fmt::format(" of at most {}", most);
  return fmt::format(" from {} to {}", least, most);
}

}  // namespace

Json parse_json(std::string_view text, std::string_view source) {
  return in_context(source, [&] {
    SC_CHECK(text.size() <= kMostText, "expected at most {} bytes, got {}", kMostText, text.size());
    // The parser would take a zero byte for the end and leave the rest unread.
    const std::size_t zero = text.find('\0');
    SC_CHECK(zero == text.npos, "expected JSON, got a zero byte at {}", position_in(text, zero));
    const Check check(text);
    return Json::parse(text);
  });
}

Json parse_json_object(std::string_view text, std::string_view source) {
  Json json = parse_json(text, source);
  SC_CHECK(json.is_object(), "{}: expected a JSON object, got {}", source, in_words(json));
  return json;
}

Json read_json(const std::filesystem::path& path) {
  return parse_json_object(text_of(read_file(path)), path.string());
}

std::string json_text(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string in_words(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  return value.is_string() ? in_quotes(value.get_ref<const std::string&>()) : json_text(value);
}

template <class T>
T json_as(const Json& value, std::string_view what) {
  const std::optional<T> is = value_of<T>(value);
  SC_CHECK(is, "{} is {}, expected {}", what, in_words(value), name_of_type<T>());
  return *is;
}

template <class T>
T json_as(const Json& value, std::string_view what, T least, T most) {
  const std::optional<T> is = value_of<T>(value);
  SC_CHECK(is && *is >= least && *is <= most, "{} is {}, expected {}{}", what, in_words(value),
           name_of_type<T>(), range_in_words(least, most));
  return *is;
}

template bool json_as(const Json&, std::string_view);
template double json_as(const Json&, std::string_view);
template std::string json_as(const Json&, std::string_view);
template std::int64_t json_as(const Json&, std::string_view);
template double json_as(const Json&, std::string_view, double, double);
template std::int64_t json_as(const Json&, std::string_view, std::int64_t, std::int64_t);

Json finite_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

double number_or(const Json& value, double otherwise) {
  return value.is_number() ? value.get<double>() : otherwise;
}

const Json& member(const Json& object, std::string_view name, std::string_view source) {
  SC_CHECK(object.is_object(), "{} is {}, expected an object", source, in_words(object));
  const auto found = object.find(std::string(name));
  SC_CHECK(found != object.end(), "{}: has no \"{}\"", source, name);
  return *found;
}

const Json& object_member(const Json& object, std::string_view name, std::string_view source) {
  const Json& value = member(object, name, source);
  SC_CHECK(value.is_object(), "{}: \"{}\" is {}, expected an object", source, name,
           in_words(value));
  return value;
}

const Json& list_member(const Json& object, std::string_view name, std::string_view source) {
  const Json& value = member(object, name, source);
  SC_CHECK(value.is_array(), "{}: \"{}\" is {}, expected a list", source, name, in_words(value));
  return value;
}

}  // namespace sidechannel
