#include "vmm/boot_loader/grub_condition.h"

#include <stddef.h>

#include "absl/strings/numbers.h"

namespace bulkhead::boot_loader {
namespace {

constexpr int kMaxDepth = 32;

class Condition {
 public:
  Condition(const std::vector<std::string>& arguments, GrubFileSize file_size)
      : arguments_(arguments), file_size_(file_size) {}

  bool Evaluate() {
    const bool result = Or(0);
    return result && !failed_ && left() == 0;
  }

 private:
  size_t left() const { return arguments_.size() - position_; }
  const std::string& at(size_t offset) const { return arguments_[position_ + offset]; }
  bool Take(const char* word) {
    if (left() == 0 || at(0) != word) return false;
    ++position_;
    return true;
  }
  bool Or(int depth) {
    bool result = And(depth);
    while (Take("-o")) result |= And(depth);
    return result;
  }
  bool And(int depth) {
    bool result = Not(depth);
    while (Take("-a")) result &= Not(depth);
    return result;
  }
  bool Not(int depth) {
    if (depth > kMaxDepth) failed_ = true;
    if (failed_) return false;
    // With an operator behind it, it is an operand.
    if (left() > 1 && at(0) == "!" && !(left() > 2 && IsBinary(at(1)))) {
      ++position_;
      return !Not(depth + 1);
    }
    if (left() > 2 && at(0) == "(" && !IsBinary(at(1))) {
      ++position_;
      const bool result = Or(depth + 1);
      failed_ |= !Take(")");
      return result;
    }
    return Primary();
  }
  static bool IsBinary(const std::string& word) {
    for (const char* each : {"=", "==", "!=", "<", ">", "-eq", "-ne", "-lt", "-le", "-gt", "-ge"}) {
      if (word == each) return true;
    }
    return false;
  }
  bool Primary();
  bool Binary(const std::string& a, const std::string& operation, const std::string& b) const;

  const std::vector<std::string>& arguments_;
  const GrubFileSize file_size_;
  size_t position_ = 0;
  bool failed_ = false;
};

bool Condition::Primary() {
  if (left() == 0) {
    failed_ = true;
    return false;
  }
  if (left() >= 3 && IsBinary(at(1))) {
    const bool result = Binary(at(0), at(1), at(2));
    position_ += 3;
    return result;
  }
  if (left() >= 2 && at(0).size() == 2 && at(0)[0] == '-') {
    const char operation = at(0)[1];
    const std::string& operand = at(1);
    const auto take = [this](bool result) {
      position_ += 2;
      return result;
    };
    if (operation == 'n') return take(!operand.empty());
    if (operation == 'z') return take(operand.empty());
    if (operation == 'e' || operation == 'f') return take(file_size_(operand).has_value());
    if (operation == 's') return take(file_size_(operand).value_or(0) != 0);
    if (operation == 'd') return take(false);
  }
  return !arguments_[position_++].empty();
}

bool Condition::Binary(const std::string& a, const std::string& operation,
                       const std::string& b) const {
  if (operation == "=" || operation == "==") return a == b;
  if (operation == "!=") return a != b;
  if (operation == "<") return a < b;
  if (operation == ">") return a > b;
  int64_t left = 0;
  int64_t right = 0;
  if (!absl::SimpleAtoi(a, &left) || !absl::SimpleAtoi(b, &right)) return false;
  if (operation == "-eq") return left == right;
  if (operation == "-ne") return left != right;
  if (operation == "-lt") return left < right;
  if (operation == "-le") return left <= right;
  if (operation == "-gt") return left > right;
  return left >= right;
}

}  // namespace

bool EvaluateGrubTest(const std::vector<std::string>& arguments, GrubFileSize file_size) {
  return Condition(arguments, file_size).Evaluate();
}

}  // namespace bulkhead::boot_loader
