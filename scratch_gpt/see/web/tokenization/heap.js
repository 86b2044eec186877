/**
 * A binary heap (Williams 1964, "Algorithm 232: Heapsort", Communications of the ACM 7(6)): a list of numbers
 * in which the children of entry i, 2i + 1 and 2i + 2, are not smaller than it. So the first entry is the
 * smallest, and adding or removing a number moves at most log2(n) others.
 */
export class MinHeap {
  constructor() {
    this.numbers = [];
  }

  /** Number of entries. */
  get size() {
    return this.numbers.length;
  }

  /**
   * Add a number.
   * @param {number} number
   */
  push(number) {
    const numbers = this.numbers;
    let index = numbers.length;
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (numbers[parent] <= number) break;
      numbers[index] = numbers[parent];
      index = parent;
    }
    numbers[index] = number;
  }

  /**
   * Remove the smallest number, of a heap that is not empty.
   * @returns {number}
   */
  pop() {
    const numbers = this.numbers;
    const smallest = numbers[0];
    const last = numbers.pop();
    const size = numbers.length;
    let index = 0;
    for (let child = 1; child < size; child = 2 * index + 1) {
      if (child + 1 < size && numbers[child + 1] < numbers[child]) child++;
      if (numbers[child] >= last) break;
      numbers[index] = numbers[child];
      index = child;
    }
    if (size > 0) numbers[index] = last;
    return smallest;
  }
}
