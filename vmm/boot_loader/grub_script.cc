#include "vmm/boot_loader/grub_script.h"

#include <stddef.h>

#include <initializer_list>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace bulkhead::boot_loader {
namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kMaxTokens = 200'000;

struct Token {
  enum class Kind { kWord, kSeparator, kEnd };
  Kind kind = Kind::kEnd;
  GrubWord word;
  size_t line = 0;

  // True if it is this text, unquoted: a keyword.
  bool Is(absl::string_view text) const {
    return kind == Kind::kWord && word.size() == 1 && !word[0].is_variable && !word[0].is_quoted &&
           word[0].text == text;
  }
};

class Lexer {
 public:
  explicit Lexer(absl::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<Token>> All();

 private:
  bool at_end() const { return position_ >= text_.size(); }
  char next() const { return text_[position_]; }
  absl::Status Error(absl::string_view problem) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", problem));
  }
  void SkipBlanks();
  absl::StatusOr<GrubWord> Word();
  absl::Status Quoted(char quote, GrubWord& word);
  void Variable(bool quoted, GrubWord& word);
  static void Append(GrubWord& word, char c, bool quoted);

  const absl::string_view text_;
  size_t position_ = 0;
  size_t line_ = 1;
};

bool IsBlank(char c) { return c == ' ' || c == '\t' || c == '\r'; }
bool IsNameCharacter(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
}

void Lexer::Append(GrubWord& word, char c, bool quoted) {
  if (word.empty() || word.back().is_variable || word.back().is_quoted != quoted) {
    word.push_back({.text = "", .is_variable = false, .is_quoted = quoted});
  }
  word.back().text.push_back(c);
}

void Lexer::SkipBlanks() {
  while (!at_end()) {
    if (IsBlank(next())) {
      ++position_;
    } else if (text_.substr(position_, 2) == "\\\n") {
      position_ += 2;
      ++line_;
    } else if (next() == '#') {
      while (!at_end() && next() != '\n') ++position_;
    } else {
      return;
    }
  }
}

// After the '$'.
void Lexer::Variable(bool quoted, GrubWord& word) {
  size_t end = position_;
  std::string name;
  if (!at_end() && next() == '{') {
    end = text_.find('}', position_);
    if (end != absl::string_view::npos) {
      name = std::string(text_.substr(position_ + 1, end - position_ - 1));
      ++end;
    }
  } else if (!at_end() && (absl::ascii_isdigit(static_cast<unsigned char>(next())) ||
                           next() == '?' || next() == '@' || next() == '*' || next() == '#')) {
    name = std::string(1, next());
    end = position_ + 1;
  } else {
    while (end < text_.size() && IsNameCharacter(text_[end])) ++end;
    name = std::string(text_.substr(position_, end - position_));
  }
  if (name.empty() || name.find('\n') != std::string::npos) {
    Append(word, '$', quoted);
    return;
  }
  word.push_back({.text = std::move(name), .is_variable = true, .is_quoted = quoted});
  position_ = end;
}

// After the opening quote.
absl::Status Lexer::Quoted(char quote, GrubWord& word) {
  // Also where nothing is between the quotes, a word is.
  word.push_back({.text = "", .is_variable = false, .is_quoted = true});
  while (!at_end()) {
    const char c = next();
    ++position_;
    if (c == quote) return absl::OkStatus();
    if (c == '\n') ++line_;
    if (quote == '"' && c == '$') {
      Variable(/*quoted=*/true, word);
      continue;
    }
    if (quote == '"' && c == '\\' && !at_end()) {
      const char escaped = next();
      if (escaped == '\n') {
        ++position_;
        ++line_;
        continue;
      }
      if (escaped == '$' || escaped == '"' || escaped == '\\') {
        ++position_;
        Append(word, escaped, /*quoted=*/true);
        continue;
      }
    }
    Append(word, c, /*quoted=*/true);
  }
  return Error("a quote is not closed");
}

absl::StatusOr<GrubWord> Lexer::Word() {
  GrubWord word;
  while (!at_end()) {
    const char c = next();
    if (IsBlank(c) || c == '\n' || c == ';') break;
    ++position_;
    if (c == '\'' || c == '"') {
      RETURN_IF_ERROR(Quoted(c, word));
    } else if (c == '$') {
      Variable(/*quoted=*/false, word);
    } else if (c == '\\' && !at_end()) {
      if (next() == '\n') {
        ++line_;
      } else {
        Append(word, next(), /*quoted=*/true);
      }
      ++position_;
    } else {
      Append(word, c, /*quoted=*/false);
    }
  }
  return word;
}

absl::StatusOr<std::vector<Token>> Lexer::All() {
  std::vector<Token> tokens;
  while (true) {
    if (tokens.size() >= kMaxTokens) return Error("the script is too long");
    SkipBlanks();
    Token token;
    token.line = line_;
    if (!at_end()) {
      if (next() == '\n' || next() == ';') {
        token.kind = Token::Kind::kSeparator;
        if (next() == '\n') ++line_;
        ++position_;
      } else {
        token.kind = Token::Kind::kWord;
        ASSIGN_OR_RETURN(token.word, Word());
      }
    }
    const bool is_last = token.kind == Token::Kind::kEnd;
    tokens.push_back(std::move(token));
    if (is_last) return tokens;
  }
}

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<GrubBlock> All() {
    ASSIGN_OR_RETURN(GrubBlock block, Block({}, 0));
    if (next().kind != Token::Kind::kEnd) return Error("unexpected end of a block");
    return block;
  }

 private:
  using Terminators = std::initializer_list<absl::string_view>;

  const Token& next() const { return tokens_[position_]; }
  // Never passes the last token, which is kEnd.
  void Advance() {
    if (position_ + 1 < tokens_.size()) ++position_;
  }
  absl::Status Error(absl::string_view problem) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", next().line, ": ", problem));
  }
  void SkipSeparators() {
    while (next().kind == Token::Kind::kSeparator) Advance();
  }
  absl::Status Expect(absl::string_view keyword) {
    if (!next().Is(keyword)) return Error(absl::StrCat("\"", keyword, "\" is missing"));
    Advance();
    return absl::OkStatus();
  }
  bool IsOneOf(Terminators terminators) const {
    for (const absl::string_view each : terminators) {
      if (next().Is(each)) return true;
    }
    return false;
  }
  std::vector<GrubWord> Words(bool until_brace);
  // Up to one of `terminators`, which is not consumed, or the end.
  absl::StatusOr<GrubBlock> Block(Terminators terminators, int depth);
  absl::StatusOr<GrubBlock> Braces(int depth);
  absl::StatusOr<GrubStatement> Statement(int depth);
  absl::Status If(GrubStatement& statement, int depth);

  const std::vector<Token> tokens_;
  size_t position_ = 0;
};

std::vector<GrubWord> Parser::Words(bool until_brace) {
  std::vector<GrubWord> words;
  while (next().kind == Token::Kind::kWord && !(until_brace && next().Is("{"))) {
    words.push_back(next().word);
    Advance();
  }
  return words;
}

absl::StatusOr<GrubBlock> Parser::Block(Terminators terminators, int depth) {
  if (depth > kMaxDepth) return Error("too deeply nested");
  GrubBlock block;
  while (true) {
    SkipSeparators();
    if (next().kind == Token::Kind::kEnd || IsOneOf(terminators)) return block;
    ASSIGN_OR_RETURN(GrubStatement statement, Statement(depth + 1));
    block.push_back(std::move(statement));
  }
}

absl::StatusOr<GrubBlock> Parser::Braces(int depth) {
  SkipSeparators();
  RETURN_IF_ERROR(Expect("{"));
  ASSIGN_OR_RETURN(GrubBlock block, Block({"}"}, depth));
  RETURN_IF_ERROR(Expect("}"));
  return block;
}

absl::Status Parser::If(GrubStatement& statement, int depth) {
  statement.kind = GrubStatement::Kind::kIf;
  while (true) {
    Advance();  // "if" or "elif"
    GrubStatement::Branch branch;
    ASSIGN_OR_RETURN(branch.condition, Block({"then"}, depth));
    RETURN_IF_ERROR(Expect("then"));
    ASSIGN_OR_RETURN(branch.body, Block({"elif", "else", "fi"}, depth));
    statement.branches.push_back(std::move(branch));
    if (!next().Is("elif")) break;
  }
  if (next().Is("else")) {
    Advance();
    ASSIGN_OR_RETURN(statement.body, Block({"fi"}, depth));
  }
  return Expect("fi");
}

absl::StatusOr<GrubStatement> Parser::Statement(int depth) {
  using Kind = GrubStatement::Kind;
  GrubStatement statement;
  if (next().Is("if")) {
    RETURN_IF_ERROR(If(statement, depth));
    return statement;
  }
  if (next().Is("while") || next().Is("until") || next().Is("for")) {
    if (next().Is("for")) {
      statement.kind = Kind::kFor;
      Advance();
      statement.words = Words(/*until_brace=*/false);
      if (statement.words.size() < 2) return Error("\"for\" needs a variable and \"in\"");
      statement.words.erase(statement.words.begin() + 1);  // "in"
    } else {
      statement.kind = next().Is("while") ? Kind::kWhile : Kind::kUntil;
      Advance();
      ASSIGN_OR_RETURN(statement.condition, Block({"do"}, depth));
    }
    SkipSeparators();
    RETURN_IF_ERROR(Expect("do"));
    ASSIGN_OR_RETURN(statement.body, Block({"done"}, depth));
    RETURN_IF_ERROR(Expect("done"));
    return statement;
  }
  const bool is_function = next().Is("function");
  const bool is_submenu = next().Is("submenu");
  if (is_function || is_submenu || next().Is("menuentry")) {
    statement.kind = is_function ? Kind::kFunction : is_submenu ? Kind::kSubmenu : Kind::kMenuEntry;
    Advance();
    statement.words = Words(/*until_brace=*/true);
    if (statement.words.empty()) return Error("a name or title is missing");
    ASSIGN_OR_RETURN(statement.body, Braces(depth));
    return statement;
  }
  statement.words = Words(/*until_brace=*/false);
  return statement;
}

}  // namespace

absl::StatusOr<GrubBlock> ParseGrubScript(absl::string_view text) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Lexer(text).All());
  return Parser(std::move(tokens)).All();
}

}  // namespace bulkhead::boot_loader
